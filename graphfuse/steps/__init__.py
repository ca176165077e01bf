"""The steps from a file to a fused one, in order; the only room that knows all the others."""
