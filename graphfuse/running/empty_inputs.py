"""Bias inputs that are there and empty, on which onnxruntime's optimiser crashes the process.

A LayerNormalization without a bias has two inputs, or a third of the name '': to ONNX they are one.
onnxruntime asks the third for its type, which it has not: SkipLayerNormFusion
(core/optimizer/skip_layer_norm_fusion.cc) reads through a null pointer, whatever is before the
norm. Sessions of graphfuse's are made without such names, so that the model can be judged.
"""

from __future__ import annotations

import onnx

from graphfuse.graph.tensors import DEFAULT_DOMAINS, all_nodes

CRASHING = "LayerNormalization"


def _ends_empty(node: onnx.NodeProto) -> bool:
    ours = node.op_type == CRASHING and node.domain in DEFAULT_DOMAINS
    return ours and bool(node.input) and not node.input[-1]


def crashing(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes of a model that crash onnxruntime when it optimises them."""
    graphs = (model.graph, *model.functions)
    return [node for graph in graphs for node in all_nodes(graph.node) if _ends_empty(node)]


def without(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, or a copy in which such nodes end with the last input that is there."""
    if not crashing(model):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in crashing(copy):
        while node.input and not node.input[-1]:
            del node.input[-1]
    return copy


def notes(original: onnx.ModelProto, fused: onnx.ModelProto) -> list[str]:
    """What to know of a model that has such nodes, and of what was made of it."""
    found, left = crashing(original), crashing(fused)
    if not found and not left:
        return []
    first = (found or left)[0]
    rest = f"the fused model has {len(left)} of them left" if left else "the fused model has none"
    return [
        f"{len(found)} LayerNormalization nodes, such as {first.name or first.output[0]!r}, have a "
        "third input that is empty: onnxruntime's own optimiser (SkipLayerNormFusion) crashes the "
        f"process on such a node, so both models were run without it; {rest}"
    ]
