"""Rescale factors: values, closed forms, the critical pair, and the files of other tools that hold them."""
