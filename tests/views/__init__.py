"""Tests of how a loaded model is looked at."""
