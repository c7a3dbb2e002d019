"""The verbs of the command line, one module per group, each with `add(verbs)`."""
