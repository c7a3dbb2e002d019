"""Results to tables, the data of figures, and pages; without torch."""
