"""Tests of the roads into graphfuse."""
