"""Every place of a model that a tensor can be in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto
from onnx import helper as h

Place = Callable[[ModelProto, TensorProto], object]


def graph(*nodes: NodeProto, initializers: tuple[TensorProto, ...] = ()) -> GraphProto:
    return h.make_graph(list(nodes), "body", [], [], list(initializers))


def holder(**attributes: object) -> NodeProto:
    """A node that has a tensor somewhere in an attribute, and that nothing reads."""
    node = NodeProto(op_type="Holder", domain="other", output=["unused"])
    for name, value in attributes.items():
        node.attribute.append(attribute(name, value))
    return node


def attribute(name: str, value: object) -> AttributeProto:
    made = AttributeProto(name=name)
    if isinstance(value, TensorProto):
        made.t.CopyFrom(value)
        made.type = AttributeProto.TENSOR
    elif isinstance(value, SparseTensorProto):
        made.sparse_tensor.CopyFrom(value)
        made.type = AttributeProto.SPARSE_TENSOR
    elif isinstance(value, GraphProto):
        made.g.CopyFrom(value)
        made.type = AttributeProto.GRAPH
    else:
        assert isinstance(value, list)
        kinds: tuple[tuple[type, str, int], ...] = (
            (TensorProto, "tensors", AttributeProto.TENSORS),
            (SparseTensorProto, "sparse_tensors", AttributeProto.SPARSE_TENSORS),
            (GraphProto, "graphs", AttributeProto.GRAPHS),
        )
        for kind, field, number in kinds:
            if isinstance(value[0], kind):
                getattr(made, field).extend(value)
                made.type = number  # type: ignore[assignment]
    return made


def untyped(tensor: TensorProto) -> NodeProto:
    """An attribute that says it is a number, and holds a tensor."""
    node = holder(value=tensor)
    node.attribute[0].type = AttributeProto.INT
    return node


def as_values(tensor: TensorProto) -> SparseTensorProto:
    return SparseTensorProto(values=tensor, dims=[100])


def as_indices(tensor: TensorProto) -> SparseTensorProto:
    values = h.make_tensor("values", TensorProto.FLOAT, [8], [0.0] * 8)
    return SparseTensorProto(values=values, indices=tensor, dims=[100])


def function(model: ModelProto, *nodes: NodeProto) -> None:
    model.functions.append(
        h.make_function("other", "F", ["i"], ["o"], list(nodes), [h.make_opsetid("", 17)])
    )


def default(model: ModelProto, tensor: TensorProto) -> None:
    function(model, h.make_node("Neg", ["i"], ["o"]))
    model.functions[0].attribute_proto.append(attribute("value", tensor))


def training(model: ModelProto, tensor: TensorProto, name: str) -> None:
    made = model.training_info.add()
    getattr(made, name).CopyFrom(graph(initializers=(tensor,)))


PLACES: Mapping[str, Place] = {
    "initializer": lambda m, t: m.graph.initializer.append(t),
    "sparse values": lambda m, t: m.graph.sparse_initializer.append(as_values(t)),
    "sparse indices": lambda m, t: m.graph.sparse_initializer.append(as_indices(t)),
    "attribute": lambda m, t: m.graph.node.append(holder(value=t)),
    "attribute of tensors": lambda m, t: m.graph.node.append(holder(value=[t])),
    "attribute of another type": lambda m, t: m.graph.node.append(untyped(t)),
    "sparse attribute": lambda m, t: m.graph.node.append(holder(value=as_values(t))),
    "indices of an attribute": lambda m, t: m.graph.node.append(holder(value=as_indices(t))),
    "sparse attributes": lambda m, t: m.graph.node.append(holder(value=[as_values(t)])),
    "subgraph": lambda m, t: m.graph.node.append(holder(then_branch=graph(initializers=(t,)))),
    "subgraphs": lambda m, t: m.graph.node.append(holder(cases=[graph(initializers=(t,))])),
    "nested subgraph": lambda m, t: m.graph.node.append(
        holder(then_branch=graph(holder(body=graph(holder(value=t)))))
    ),
    "sparse in a subgraph": lambda m, t: m.graph.node.append(
        holder(body=graph(holder(value=as_indices(t))))
    ),
    "function": lambda m, t: function(m, holder(value=t)),
    "subgraph of a function": lambda m, t: function(m, holder(body=graph(initializers=(t,)))),
    "default of a function": default,
    "training, initialization": lambda m, t: training(m, t, "initialization"),
    "training, algorithm": lambda m, t: training(m, t, "algorithm"),
}
