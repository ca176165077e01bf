"""What is known not to work, in the words of who says so, and what is rightly left.

A key is a name of the zoo and where it holds: a type other than float32, an exporter with or
without an opset, or * for all. What does not come true is a difference as well.
"""

from __future__ import annotations

from collections.abc import Mapping

Key = tuple[str, str]

DATA_DEPENDENT = "Could not guard on data-dependent expression"
SUBTRACTION = "Cannot find a compatible OpOverload for aten.sub"
RANKS = "All tensors must have the same rank"

NOT_EXPORTED: Mapping[Key, str] = {
    ("apertus", "torchscript"): "Exporting the operator 'aten::expm1'",
    ("bart", "float16"): DATA_DEPENDENT,
    ("bigbird-pegasus", "float16"): DATA_DEPENDENT,
    ("diffllama", "torchscript"): "Exporting the operator 'aten::rms_norm'",
    ("dinov2-registers", "torchscript"): "Exporting the operator 'aten::_upsample_bicubic2d_aa'",
    ("fnet", "torchscript"): "Exporting the operator 'aten::fft_fftn'",
    ("fsmt", "dynamo"): DATA_DEPENDENT,
    ("glm", "torchscript"): RANKS,
    ("glm4", "torchscript"): RANKS,
    ("led", "dynamo"): DATA_DEPENDENT,
    ("longformer", "dynamo"): DATA_DEPENDENT,
    ("moonshine", "torchscript"): RANKS,
    ("nllb-moe", "dynamo"): "Cannot swap t1 because it has weakref associated with it",
    ("prophetnet", "dynamo"): SUBTRACTION,
    ("qwen3-next", "torchscript"): "Exporting the operator 'aten::linalg_solve_triangular'",
    ("recurrent-gemma", "torchscript"): "Exporting the operator 'aten::diff'",
    ("vilt", "dynamo"): DATA_DEPENDENT,
    ("vilt", "torchscript"): "Expected node type 'onnx::Constant' for argument 'num_samples'",
    ("whisper", "torchscript"): "Exporting the operator 'aten::diff'",
    ("xlnet", "dynamo"): SUBTRACTION,
}
"""Exports that PyTorch or transformers refuses: a part of the message."""

BROADCAST = "Attempting to broadcast an axis by a dimension other than 1"
RESHAPE = "while running Reshape node"

NOT_RUN: Mapping[Key, str] = {
    # TorchScript writes repeat_interleave over a dynamic axis such that it gives another shape.
    ("canine", "torchscript"): "left operand cannot broadcast on dim 1",
    ("cohere", "torchscript"): BROADCAST,
    ("cohere-qk-norm", "torchscript"): BROADCAST,
    ("cohere2", "torchscript"): BROADCAST,
    ("ernie-4.5", "torchscript"): RESHAPE,
    ("helium", "torchscript"): RESHAPE,
    ("helium-epsilon", "torchscript"): RESHAPE,
    ("patchtst", "torchscript"): "Incompatible dimensions",
    # Falcon computes ALiBi in bfloat16.
    ("falcon-alibi", "dynamo"): "Could not find an implementation for Mul(14)",
    ("falcon-alibi", "torchscript"): "Type 'tensor(complex128)' of input parameter",
}
"""Exports that onnxruntime refuses, unfused: a part of the message."""

NOT_JUDGED: Mapping[Key, str] = {}
"""Exports for which graphfuse has no float64 reference: a part of its message."""

NO_RESIDUAL = ("vector-operand",)
"""Reasons that say that there is no site: a bias of a Linear is added before a norm."""

LEFT: Mapping[Key, Mapping[str, int]] = {
    # In float16 sums are clamped to its range before the norm.
    ("mbart", "float16"): {"sum-clamped": 2},
    ("pegasus", "float16"): {"sum-clamped": 2},
    ("switch", "float16"): {"sum-clamped": 10},
    ("whisper", "float16"): {"sum-clamped": 2},
    # Channels first: the sum is transposed before the norm.
    ("convnext", "*"): {"sum-reshaped": 1},
    ("convnextv2", "*"): {"sum-reshaped": 1},
    ("sew", "*"): {"sum-reshaped": 1},
    ("squeezebert", "*"): {"sum-reshaped": 4},
    # A part of the sum is normalised: the class token, the frames of one time, the last states.
    ("clip", "*"): {"sum-sliced": 1},
    ("pegasus-x", "*"): {"sum-sliced": 1, "sum-joined": 1},
    ("timesformer", "*"): {"sum-sliced": 1, "sum-joined": 4},
    # Patches are merged, tokens put before them, rows padded, two streams joined: then the norm.
    ("clap-audio", "*"): {"sum-joined": 1},
    ("prophetnet", "*"): {"sum-joined": 1},
    ("swin", "*"): {"sum-joined": 1},
    # Two norms read one sum, before attention and before the parallel feed-forward network.
    ("falcon-new", "*"): {"sum-taken": 1},
    ("gpt-neox", "*"): {"sum-taken": 1},
    # The exporter drops an epsilon of 1e-8 or less that is added with +.
    ("helium", "dynamo"): {"epsilon-not-positive": 4},
    ("ibert", "dynamo"): {"epsilon-not-positive": 5},
}
"""Near misses by their reason's code, where there are any."""

UNFUSED: Mapping[Key, int] = {
    ("convnext", "*"): 1,
    ("convnextv2", "*"): 1,
    ("helium", "dynamo"): 4,
    # It normalises queries and keys after their rotation, which opset 23 has an operator for.
    ("hunyuan", "dynamo 23"): 4,
    # Patches are put in another order between sum and norm: not one tensor in eager PyTorch.
    ("hiera", "*"): -1,
    ("ibert", "dynamo"): 5,
    ("sew", "*"): 1,
    ("squeezebert", "*"): 4,
}
"""Sites that eager PyTorch counts and that are not fused, for a reason in `LEFT` or none."""
