"""Labelled pictures on disk, whatever the modality: finding them, what can be wrong with them, dividing them."""
