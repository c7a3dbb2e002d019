"""Figures of a report, a module each; they import matplotlib, which tables do not need."""
