"""The zoo: many Hugging Face architectures, small and random, each exported, fused and validated.

`python -m tests.campaigns.zoo` runs all of it; tests/campaigns/test_zoo.py runs a fast part of it.
"""
