"""One module per evaluation task, each with `evaluate(evaluated, settings, inputs, runtime)`."""
