"""What a process calls so that something fails in it; a module, so that it can be unpickled."""

import errno
import os
import pathlib
import shutil


def _exhausted(*args, **kwargs):
  import jax

  raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore")


def _no_memory(*args, **kwargs):
  raise MemoryError("Unable to allocate 9 bytes")


def _full_disk(*args, **kwargs):
  raise OSError(errno.ENOSPC, "No space left on device", "picture.png")


def out_of_memory_for_examples():
  """The images of AutoAttack's picture can't be computed."""
  from jax_robust.jobs import autoattack

  autoattack._hardest = _exhausted


def out_of_memory_for_pictures():
  """No picture can be drawn."""
  from jax_robust.evaluate import plot_style

  plot_style.make_figure = _no_memory


def full_disk_for_pictures():
  """No picture can be saved."""
  from matplotlib.figure import Figure

  Figure.savefig = _full_disk


def out_of_memory_for_certificates():
  """Sampling fails on the device."""
  from jax_robust import smoothing

  smoothing.each_certificate = _exhausted


def replace(folder: pathlib.Path):
  """Puts a copy of a folder in its place."""
  moved = folder.with_name("moved")
  folder.rename(moved)
  shutil.copytree(moved, folder)


def delete(folder: pathlib.Path):
  """Deletes a folder, in which a checkpoint may be being written."""
  while folder.exists():
    shutil.rmtree(folder, ignore_errors=True)


def move(folder: pathlib.Path):
  """Moves a folder away."""
  os.rename(folder, folder.with_name("moved"))
