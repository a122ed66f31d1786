"""A net without finite logits for an image that it is given: the job names the image and ends."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jax_robust import jobs
from jax_robust.data.evaluation import as_floats
from jax_robust.errors import LostImagesError, RobustnessWarning
from jax_robust.runs import build, nets

LOST = 2  # the place of the image among the test images


@pytest.fixture
def broken(monkeypatch, tiny):
  """Nets are given that have no finite logits near one test image, whatever is added to it."""
  images, _ = build.load_test(tiny(), None).read(np.array([LOST]))
  lost, make = as_floats(images), nets.make_outputs_fn

  def make_broken(*args, **options):
    outputs_fn = make(*args, **options)

    def outputs(x):
      near = jnp.mean(x * (lost - 0.5), axis=(1, 2, 3)) > 0.8 * np.mean(lost * (lost - 0.5))
      return jnp.where(near[:, None], jnp.nan, outputs_fn(x))

    return outputs

  monkeypatch.setattr(nets, "make_outputs_fn", make_broken)


CHANGES = {
  "autoattack": {"autoattack__version": ("apgd-ce",)},
  "certify": {"smoothing__max": 4},
  "predict": {},
}


@pytest.mark.parametrize("job", CHANGES)
def test_the_image_is_named(tiny, copy, broken, tmp_path, job):
  images, _ = build.load_test(tiny(), None).read(np.arange(4))
  (tmp_path / "images").mkdir()
  for place, image in enumerate(images):
    Image.fromarray(image).save(tmp_path / "images" / f"{place}.png")
  config = tiny(
    "steps=80,save=4,evaluate=10,log=3", job=job, evaluation__num_examples=4,
    smoothing__images=f"{tmp_path}/images", smoothing__sigma=0.01, smoothing__n0=10,
    smoothing__n=100, smoothing__batch_size=100, **CHANGES[job],
  )  # fmt: skip
  with pytest.raises(LostImagesError, match=rf"NaN or infinite for .*images? {LOST}: look at"):
    jobs.run(config, copy)


def test_an_evaluation_warns_of_it(tiny, broken, tmp_path):
  config = tiny(job="evaluate", init_from="made", evaluation__num_examples=4)
  del config.evals.robust
  config.select = ("clean", "max")
  with pytest.warns(RobustnessWarning, match=f"for images {LOST}, which count as wrong"):
    result = jobs.run(config, tmp_path / "run")
  assert result["num_lost"] == {"clean": 1}
