"""The histology wing: from a slide to glomeruli found, counted and measured."""
