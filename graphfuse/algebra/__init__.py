"""The algebra that norms are recognised by: exact, and without a word of ONNX.

`form` has the normal form and its arithmetic, `atoms` what it is made of, `signs` what is known not
to be negative, `powers` exact powers, `rendering` the text; `norms` says what a norm is.
"""

from graphfuse.algebra.form import Form, constant, evaluated, leaf, mean, root_of, subject

__all__ = ["Form", "constant", "evaluated", "leaf", "mean", "root_of", "subject"]
