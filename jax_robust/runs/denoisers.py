"""The denoiser that `smoothing.denoiser` puts in front of the nets that a job smooths."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from jax_robust import smoothing
from jax_robust.data.sources import Source
from jax_robust.errors import ConfigError
from jax_robust.runs import nets
from jax_robust.types import LogitsFn


class Denoiser(NamedTuple):
  """What stands in front of a net.

  Attributes:
    denoise_fn: `(x, sigma, label) -> image`; None where nothing does.
    identity: what results depend on: the digest of its weights.
  """

  denoise_fn: Callable | None = None
  identity: Mapping[str, str] = MappingProxyType({})

  def before(self, logits_fn: LogitsFn, sigma: float) -> LogitsFn:
    """A net behind this denoiser, for images with noise of that sigma."""
    if self.denoise_fn is None:
      return logits_fn
    return smoothing.denoised(logits_fn, self.denoise_fn, sigma=sigma)


def open_denoiser(config: Any, source: Source) -> Denoiser:
  """The denoiser of the run `config.smoothing.denoiser`, for the images of a source.

  Raises:
    ConfigError: the run has no weights, is of other images, or of a net that is no denoiser or
      that was always told the label.
    WorkdirError: it is no workdir.
  """
  reference = config.smoothing.get("denoiser", "")
  if not reference:
    return Denoiser()
  theirs, opened = nets.open_run(reference, source, key="smoothing.denoiser")
  check_denoiser(f"smoothing.denoiser={reference!r}", opened.net)
  check_unlabelled(f"smoothing.denoiser={reference!r}", theirs, opened)
  denoise_fn = nets.make_outputs_fn(opened.net, opened.params, opened.model_state)
  return Denoiser(denoise_fn, {"denoiser_sha256": opened.info["sha256"]})


def check_unlabelled(named: str, config: Any, opened: nets.Opened) -> None:
  """Raises ConfigError unless a denoiser can be asked without a label.

  Args:
    named: the key and value that name its run, for the message.
    config: of its run.
    opened: the net.
  """
  if opened.net.num_labels and not config.objective.get("label_dropout", 0.0):
    raise ConfigError(
      f"config.{named} was always told the class of its images, and can't be asked without: train "
      "one with objective.label_dropout above 0, or with model.num_labels=0"
    )


def check_denoiser(named: str, net: Any) -> None:
  """Raises ConfigError unless the net of a run is a denoiser.

  Args:
    named: the config's key and value, for the message.
    net: the module.
  """
  if not hasattr(net, "precondition"):
    raise ConfigError(
      f"config.{named} is the run of a {type(net).__name__}, which denoises no images: name one of "
      "configs/diffusion.py"
    )
