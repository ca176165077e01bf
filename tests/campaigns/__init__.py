"""Runs that are longer than tests: each a command of its own, with a sample in CI."""
