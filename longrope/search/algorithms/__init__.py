"""Search algorithms. They ask for candidates and are told losses, and see no model."""
