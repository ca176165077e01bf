"""The edits, and the proof that they did what was planned and nothing else."""
