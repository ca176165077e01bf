"""Tests of real exports, end to end."""
