"""A generator of spellings of norms, legal ones and near misses, and a judge of what becomes of them.

    python -m tests.campaigns.fuzz --count 2000 --seed 1 --jobs 2

It shares nothing with the recogniser: graphfuse is entered by `fuse` and `reasons` alone, and the
meaning of a graph comes from `oracle`, a float64 evaluator of its own. Every case follows from
(seed, index) alone, whatever the number of jobs. `spellings/` holds cases that were missed once.

    choices    every random decision, by topic, so that a failing case can be made plainer
    tree       expressions: what a norm says, before it is spelt in operators
    moves      identities over the reals, applied to expressions
    norm       what is meant: the definition, in numpy, and its expression
    emit       expressions to ONNX nodes, with a choice of operators for each
    weights    vectors along the last axis
    draft      a graph under construction
    build      operands, their Add, a norm, and what reads it
    near       illegal moves on the expression; near_model: on the model around it
    case       what a case is and what it follows from
    cases      legal cases and near misses
    dress      decoys, names, order of nodes, initializers or Constants
    scopes     blocks in branches, loop bodies and functions
    oracle     a float64 evaluator of ONNX models
    judge      fused iff legal, equal in float64, valid, and unchanged by a second fuse
    shrink     a failing case made plainer, as text
    campaign   many cases, their totals
"""
