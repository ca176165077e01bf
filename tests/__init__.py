"""Tests of graphfuse."""
