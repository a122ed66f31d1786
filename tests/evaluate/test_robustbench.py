"""An evaluation in RobustBench's fields, and what keeps a number from standing beside its own."""

import pytest

from jax_robust.evaluate import robustbench

pytestmark = pytest.mark.fast

RESULT = {
  "data": "cifar10", "norm": "linf", "eps": 8 / 255, "version": "standard", "split": "test",
  "num_examples": 10_000, "complete": True, "precision": "highest", "warnings": [],
  "clean": 0.84923, "robust": 0.5308,
}  # fmt: skip


def test_fields_are_written_as_there():
  model = {"name": "wide_resnet", "depth": 34, "width": 10}
  entry = robustbench.entry(RESULT, model, trained_here=True, generated=True)
  known = {key: value for key, value in entry.items() if value is not None}
  assert known == {
    "additional_data": False, "number_forward_passes": 1, "dataset": "cifar10",
    "architecture": "WideResNet-34-10", "eps": "8/255",
    "clean_acc": "84.92", "autoattack_acc": "53.08", "unreliable": False,
    "footnote": "It uses generated images in training.",
  }  # fmt: skip
  assert entry.keys() >= {"link", "name", "authors", "venue", "reported"}


def test_what_weights_from_elsewhere_were_trained_on_is_not_known():
  entry = robustbench.entry(RESULT, {"name": "resnet50"}, trained_here=False, generated=True)
  assert (entry["additional_data"], entry["footnote"]) == (None, None)
  assert entry["architecture"] == "ResNet-50"


def test_the_standard_evaluation_is_comparable():
  assert robustbench.comparable(RESULT) == "yes"
  assert robustbench.comparable({**RESULT, "norm": "l2", "eps": 0.5}) == "yes"
  assert robustbench.comparable({**RESULT, "data": "cifar100", "precision": "float32"}) == "yes"


OTHER = {
  "data": ({"data": "svhn_cropped"}, "no leaderboard for 'svhn_cropped'"),
  "norm": ({"data": "cifar100", "norm": "l2", "eps": 0.5}, "no leaderboard for cifar100 in l2"),
  "eps": ({"eps": 4 / 255}, "eps is 4/255, there 8/255"),
  "l2": ({"norm": "l2", "eps": 128 / 255}, "eps is 128/255, there 0.5"),
  "version": ({"version": ("apgd-ce",)}, "the version is ('apgd-ce',), there standard"),
  "split": ({"split": "train"}, "the split is 'train'"),
  "few": ({"num_examples": 1000}, "1,000 images were evaluated, there all 10,000"),
  "partial": ({"complete": False}, "images were evaluated"),
  "precision": ({"precision": "default"}, "precision is 'default', there float32"),
  "warnings": ({"warnings": ["zero gradients"]}, "warns of itself"),
}


@pytest.mark.parametrize("case", OTHER)
def test_every_difference_is_named(case):
  change, reason = OTHER[case]
  verdict = robustbench.comparable({**RESULT, **change})
  assert verdict.startswith("no, because ") and reason in verdict


def test_all_reasons_are_given():
  verdict = robustbench.comparable({**RESULT, "eps": 0.1, "num_examples": 5})
  assert verdict.count(";") == 1 and "eps is 0.1" in verdict and "5 images" in verdict
