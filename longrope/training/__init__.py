"""Fine-tuning: rows, the Trainer, division among processes, memory savings, and records."""
