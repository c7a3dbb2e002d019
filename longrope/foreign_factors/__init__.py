"""Factors in files of other formats: `formats` reads and writes them all, `huggingface` a config's block."""
