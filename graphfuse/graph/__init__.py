"""Reading a model: its file, its structure, its shapes."""
