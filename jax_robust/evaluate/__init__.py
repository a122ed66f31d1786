"""Accuracy, clean and under attack: flags for each image, intervals, tables, plots."""
