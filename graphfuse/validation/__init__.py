"""Numerical validation: float64 twins, sites alone, the whole model."""
