"""Failing system calls and killed processes: `python -m tests.faults` tries every one of a run."""
