"""Processes that score candidates: this one, one per GPU, or workers of Dask."""
