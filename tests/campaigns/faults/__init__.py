"""Failing system calls and killed processes: `python -m tests.campaigns.faults` tries every one of a run."""
