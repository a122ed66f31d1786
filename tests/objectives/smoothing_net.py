"""A linear net, a batch and noises for the smoothing objectives, and their losses in NumPy.

The losses are those of the papers, in float64; gradients are central differences.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust.types import Progress

DRAW = np.random.default_rng(7)
NUM, NOISES, CLASSES = 6, 3, 3
KERNEL = 3 * DRAW.normal(size=(4, CLASSES))
KERNEL -= KERNEL.mean(0)  # a grey image is a draw
SIGMA = 0.3
X = DRAW.uniform(0.2, 0.8, size=(NUM, 2, 2, 1))
NOISE = SIGMA * DRAW.normal(size=(NUM, NOISES, 2, 2, 1))
GUESSES = (X.reshape(NUM, -1) @ KERNEL).argmax(1)
LABELS = np.add(GUESSES, [0, 0, 0, 0, 1, 2]) % CLASSES  # the net is right about four of the six
TARGETS = 0.7 * np.eye(CLASSES)[LABELS] + 0.3 * DRAW.dirichlet(np.ones(CLASSES), NUM)
KEYS = jax.random.split(jax.random.key(5), NUM)

PARAMS = {"kernel": jnp.float32(KERNEL)}
STATE = {"mean": jnp.float32(0.1 * DRAW.normal(size=CLASSES)), "passes": jnp.int32(0)}
BATCH = {"image": jnp.float32(X), "target": jnp.float32(TARGETS)}


def linear(params, model_state, x, *, train):
  """Logits `x @ kernel`; the state counts the training passes."""
  passes = model_state["passes"] + int(train)
  return x.reshape(len(x), -1) @ params["kernel"], {**model_state, "passes": passes}


def centred(params, model_state, x, *, train):
  """The same through a BatchNorm that only centres."""
  logits, new_state = linear(params, model_state, x, train=train)
  mean = logits.mean(0) if train else model_state["mean"]
  if train:
    new_state = {**new_state, "mean": 0.9 * model_state["mean"] + 0.1 * mean}
  return logits - mean[None], new_state


class Watch:
  """A net that writes down how it is called: how it normalises, after how many training passes."""

  def __init__(self, net=centred):
    self.calls, self.images, self.net = [], [], net

  def __call__(self, params, model_state, x, *, train):
    self.calls.append(("batch" if train else "running", int(model_state["passes"])))
    self.images.append(x)
    return self.net(params, model_state, x, train=train)


def step(objective, net=linear, params=PARAMS, batch=BATCH, rng=KEYS, *, epoch=0.0, **options):
  """Loss, new state and metrics of an objective on the batch."""
  loss, (model_state, metrics) = objective(
    net, params, STATE, batch, rng, Progress(0, epoch), **options
  )
  return loss, model_state, metrics


def logits_of(kernel, x, noises=NOISE):
  """Logits `[b, m, k]` of the noisy copies of x."""
  return (x[:, None] + noises).reshape(len(x), noises.shape[1], -1) @ kernel


def log_softmax(z):
  z = z - z.max(-1, keepdims=True)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


def softmax(z):
  return np.exp(log_softmax(z))


def cross_entropy(z, targets):
  """Of logits `[b, m, k]` with targets `[b, k]`, for each copy."""
  return -(targets[:, None] * log_softmax(z)).sum(-1)


def kl_divergence(targets, z):
  """Of targets `[b, k]` from the predictions of logits `[b, m, k]`, for each copy."""
  log_targets = np.log(targets, where=targets > 0, out=np.zeros_like(targets))[:, None]
  return (targets[:, None] * (log_targets - log_softmax(z))).sum(-1)


def numerical_gradient(loss_of_kernel, kernel=KERNEL, step_size=1e-6):
  """Central differences."""
  gradient = np.zeros_like(kernel)
  for place in np.ndindex(kernel.shape):
    shift = np.zeros_like(kernel)
    shift[place] = step_size
    high, low = loss_of_kernel(kernel + shift), loss_of_kernel(kernel - shift)
    gradient[place] = (high - low) / (2 * step_size)
  return gradient


def gradient_of(loss_of_params, params=PARAMS):
  """The gradient of a loss in the kernel, as a NumPy array."""
  return np.asarray(jax.jit(jax.grad(loss_of_params))(params)["kernel"])


def smoothed_gradient(kernel, x, labels, noises):
  """Of `-log mean_j p_y(x + d_j)` in x: the linear net's in closed form."""
  probs = softmax(logits_of(kernel, x, noises))
  share = probs[np.arange(len(x)), :, labels]
  pull = kernel.T[labels][:, None] - probs @ kernel.T
  gradient = -(share[..., None] * pull).mean(1) / share.mean(1)[:, None]
  return gradient.reshape(x.shape)


def norm(delta):
  """The length of each example's perturbation, to broadcast over pixels."""
  flat = np.linalg.norm(np.asarray(delta, np.float64).reshape(len(delta), -1), axis=1)
  return flat.reshape(-1, *(1,) * (np.ndim(delta) - 1))


def shorten(delta, radius):
  return delta * np.minimum(1, radius / np.maximum(norm(delta), 1e-30))


def unrestricted_attack(
  kernel, x, labels, noises, *, alpha, num_steps, mix_step=0, maxnorm=np.inf, maxnorm_s=0.0
):
  """SmoothMix's attack on the linear net: its two ends."""
  point = start = x
  for count in range(num_steps):
    if count == mix_step:
      start = point
    gradient = smoothed_gradient(kernel, point, labels, noises)
    point = point + alpha * gradient / (norm(gradient) + 1e-8)
    point = np.clip(x + shorten(point - x, maxnorm), 0, 1)
  return np.clip(x + shorten(start - x, maxnorm_s), 0, 1), point


def to_levels(values):
  """Rounds to 256 levels."""
  return np.round(255 * values) / 255


def ddn(kernel, x, labels, noises, *, epsilon, num_steps):
  """SmoothAdv's DDN on the linear net: its points, and the distance at which each was found."""
  point, found, least, length = x, x, np.inf, np.full(norm(x).shape, epsilon)
  for count in range(1, num_steps + 1):
    votes = np.eye(CLASSES)[logits_of(kernel, point, noises).argmax(-1)].sum(1)
    adversarial = (votes.argmax(1) != labels).reshape(length.shape)
    distance = norm(point - x)
    nearer = adversarial & (distance < least)
    found, least = np.where(nearer, point, found), np.where(nearer, distance, least)
    gradient = smoothed_gradient(kernel, point, labels, noises)
    size = 0.01 + 0.99 * (1 + np.cos(np.pi * count / num_steps)) / 2
    delta = point - x + size * gradient / norm(gradient)
    length = np.minimum(length * np.where(adversarial, 0.95, 1.05), norm(np.maximum(x, 1 - x)))
    point = np.clip(to_levels(x + length * delta / norm(delta)), 0, 1)
  return np.clip(x + to_levels(shorten(found - x, epsilon)), 0, 1), least
