"""Formats of exports: one module each, whose name `--format` takes; see `longrope.exports.registry`."""
