"""The residual stream of a model, and how large it gets."""
