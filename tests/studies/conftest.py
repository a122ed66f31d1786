"""A study trains many nets, for two steps each: on one device."""

from one_device import on_one_device  # noqa: F401
