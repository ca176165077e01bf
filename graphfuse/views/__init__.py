"""A loaded model as others look at it: each graph indexed, parts cut out, tensors exposed."""
