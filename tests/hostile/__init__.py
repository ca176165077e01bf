"""Models that somebody made to do harm, or broke: `python -m tests.hostile` runs them all."""
