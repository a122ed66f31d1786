"""Samples of a diffusion net for the generation job."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_robust.data.sources import Source
from jax_robust.errors import ConfigError, check_count, check_name, check_weight
from jax_robust.generate import constructed as sets
from jax_robust.generate import diffusion
from jax_robust.jobs import constructed, labelling
from jax_robust.runs import denoisers, nets
from jax_robust.types import fold, fold_ids


def sample_diffusion(
  config: Any,
  *,
  net: str,
  num_samples: int,
  sampler: str = "heun",
  num_steps: int = 18,
  variance: str = "large",
  guidance: float = 1.0,
  classifier: str = "",
  num_shards: int | None = None,
  chunk_size: int = 500,
) -> constructed.Chunks:
  """Images that a diffusion net draws, in turn of every class of the config's data set.

  A net without labels draws images of any class, which a classifier has to label.

  Guarantees:
    `killed_job_draws_the_same_images`: an image depends on seed and number alone, and on the size
      of its chunk by rounding.

  Args:
    config: says data set, seed, devices and precision.
    net: workdir of the run whose net it is, as `configs/diffusion.py` trains it.
    num_samples: images.
    sampler: a name in `generate.diffusion.SAMPLERS`.
    num_steps: noise levels; 'heun' asks the net almost twice at each.
    variance: of 'ddpm'.
    guidance: how far towards the label samples are drawn; see `generate.diffusion.guided`.
    classifier: workdir of a run that labels the images, as they are stored; then the class that was
      asked for, if one was, is their given label. Empty: that class is the label.
    num_shards: as that of `write_shards`.
    chunk_size: images of a piece and of a batch; part of what must not change when a job goes on.

  Raises:
    ConfigError: no run, one of other classes or images, of a net that draws no images, or none of
      every class without a classifier, or with guidance of one that was told every label.
    ValueError: an option out of range.
  """
  check_count(num_samples=num_samples, chunk_size=chunk_size)
  check_count(2, num_steps=num_steps)
  check_weight(guidance=guidance)
  check_name("sampler", sampler, diffusion.SAMPLERS)
  check_name("variance", variance, diffusion.VARIANCES)
  subject = constructed.open_subject(config, net, chunk_size)
  opened = subject.nets[0][1]
  check_net(net, opened.net, subject.source, classifier=classifier, guidance=guidance)
  if guidance != 1:
    denoisers.check_unlabelled(f"generate.net={net!r}", *subject.nets[0])
  timesteps = sampler == "ddpm" or (sampler == "ddim" and opened.net.precondition == "epsilon")
  spaced = diffusion.ddpm_sigmas if timesteps else diffusion.edm_sigmas
  levels = diffusion.check_levels(spaced(num_steps, scale=opened.net.scale))
  draw = _make_draw(subject, levels, sampler, variance, guidance)
  options = {"sampler": sampler, "num_steps": num_steps, "variance": variance}
  options |= {"guidance": guidance} if guidance != 1 else {}
  belongs_to = constructed.belongs_to("samples", config, subject, num_shards, options)
  belongs_to["num_examples"] = num_samples
  name_label = None
  if classifier:
    name_label, info = labelling.open_labeller(config, classifier, subject.source, chunk_size)
    belongs_to["generator"] += f", labelled by a {info['model']}"
    belongs_to["weights_sha256"].append(info["sha256"])

  def chunks(numbers):
    for number in numbers:
      ids = np.arange(number * chunk_size, min((number + 1) * chunk_size, num_samples))
      label = (ids % subject.source.num_classes).astype(np.int32)
      drawn = subject.run(draw, ids, label=label)
      if name_label is None:
        yield {"label": label, **drawn}
      else:
        given = label if opened.net.num_labels else np.full_like(label, labelling.NO_LABEL)
        yield {**drawn, "given_label": given, **name_label(ids, drawn["image"])}

  return constructed.Chunks(-(-num_samples // chunk_size), chunks, belongs_to)


def check_net(
  reference: str, net: Any, source: Source, *, classifier: str = "", guidance: float = 1.0
) -> None:
  """Raises ConfigError unless the net of a run draws images that have a label in the end.

  Args:
    reference: the run, for the message.
    net: its module.
    source: images of the classes that are to be drawn.
    classifier: what labels the images; '' for the class that is asked for.
    guidance: towards the label.
  """
  named = f"config.generate.net={reference!r} is the run of a {type(net).__name__}"
  if not hasattr(net, "num_labels"):
    raise ConfigError(f"{named}, which draws no images: name one of configs/diffusion.py")
  if not net.num_labels and not classifier:
    raise ConfigError(
      f"{named} with num_labels=0, which draws no images of a given class: have a classifier label "
      "them, by --config.generate.classifier=RUN, or name a run of configs/diffusion.py with "
      "model.num_labels"
    )
  if not net.num_labels and guidance != 1:
    raise ConfigError(
      f"{named} with num_labels=0, which is told no label: guidance={guidance} towards one needs "
      "a net with model.num_labels"
    )
  if net.num_labels and net.num_labels != source.num_classes:
    raise ConfigError(
      f"{named} with num_labels={net.num_labels}, and {source.name} has {source.num_classes} "
      "classes: name a run of a net that was told as many, or the data set that it was trained on"
    )


def _make_draw(subject: constructed.Subject, levels: np.ndarray, sampler, variance, guidance):
  """`draw(variables, rows) -> {"image"}`, of rows with `id` and `label`; a program for a step."""
  opened, compile_fn = subject.nets[0][1], subject.spread.compile_fn

  def begin(variables, rows):
    del variables
    keys = fold(fold_ids(subject.key, rows["id"]), 0)
    return diffusion.start(keys, subject.source.image_shape, levels[0])

  def advance(given, rows, is_last):
    variables, at = given
    denoise_fn = nets.make_outputs_fn(opened.net, *variables[0], precision=subject.precision)
    denoise_fn = diffusion.guided(denoise_fn, guidance)
    return diffusion.advance(
      denoise_fn, rows["x"], rows["label"], fold_ids(subject.key, rows["id"]), at["number"],
      at["sigma"], at["then"], sampler=sampler, is_last=is_last,
      variance=variance, scale=opened.net.scale,
    )  # fmt: skip

  def end(variables, x):
    del variables
    return {"image": sets.to_nearest_bytes(jnp.clip(x, 0, 1))}

  begin, end = compile_fn(begin), compile_fn(end)
  middle = compile_fn(lambda given, rows: advance(given, rows, False))
  last = compile_fn(lambda given, rows: advance(given, rows, True))

  def draw(variables, rows):
    x = begin(variables, rows)
    for number, (sigma, then) in enumerate(itertools.pairwise(levels)):
      at = subject.spread.share({"number": np.int32(number), "sigma": sigma, "then": then})
      x = (middle if then else last)((variables, at), {**rows, "x": x})
    return end(variables, x)

  return draw
