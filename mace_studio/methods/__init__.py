"""How to erase: one module per method, each with its numbers as pure functions and its settings."""
