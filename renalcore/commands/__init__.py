"""The commands of `python -m renalcore`: one module a verb, each listing what it offers to `renalcore.cli`."""
