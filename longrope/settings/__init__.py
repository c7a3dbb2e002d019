"""Every setting once, with its type, unit, default, bounds and meaning.

The JSON schema and config/README.md are generated from these models. Only choices that change
results stand here; devices, workers and paths of outputs belong to profiles and the command line.
"""
