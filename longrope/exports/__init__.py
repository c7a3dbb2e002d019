"""Model folders that other engines run: checks, choice of factor sets, formats, model card."""
