"""Means and standard deviations of the pixels of data sets, for the nets' first layer."""

# Name: (mean, std), per channel or one for all channels, of pixels in [0, 1].
CONSTANTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
  # As in the released models of Gowal, Rebuffi et al. 2021.
  "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
  "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
  # (x - 0.5) * 2 in the same code; SmoothMix leaves MNIST as it is: pass mean (0,), std (1,) there.
  "mnist": ((0.5,), (0.5,)),
  # No published constants for the robust models: MNIST's map.
  "fashion_mnist": ((0.5,), (0.5,)),
  # No constants in the released code: left as it is.
  "svhn_cropped": ((0.0,), (1.0,)),
  # torchvision's ImageNet constants, which SmoothMix uses.
  "imagenet2012": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
  # Not published for the robust models; its images are ImageNet's, so ImageNet's constants.
  "tiny_imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def constants(dataset: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """The `(mean, std)` of a data set by its TFDS name; `((0,), (1,))`, no change, for another one.

  >>> constants("mnist")
  ((0.5,), (0.5,))
  """
  return CONSTANTS.get(dataset, ((0.0,), (1.0,)))
