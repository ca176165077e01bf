"""Tests of sessions and feeds."""
