"""Measures of how well models do: typed columns in, figures out; numpy and nothing heavier."""
