"""The zoo: many Hugging Face architectures, small and random, each exported, fused and validated.

`python -m tests.zoo` runs all of it; tests/test_zoo.py runs a fast part of it.
"""
