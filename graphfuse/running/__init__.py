"""Running models: sessions, feeds, memory."""
