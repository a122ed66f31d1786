"""Generators of labelled images to train on beside the originals."""
