"""Tests of graphs and types."""
