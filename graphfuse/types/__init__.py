"""Types and shapes of every tensor, without weights."""
