"""Runs of any modality: the table that a training writes, its curves, and comparisons of many runs."""
