"""Models that somebody made to do harm, or broke: `python -m tests.campaigns.hostile` runs them all."""
