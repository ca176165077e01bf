"""Rules of `operator_types`: convolutions and pooling, with channels second, last or in blocks."""

from __future__ import annotations

from graphfuse.types.stand_ins import StandInRule, StandIns

PADDING = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")
POOLING = ("auto_pad", "kernel_shape", "pads", "strides")


def conv(s: StandIns) -> bool:
    """Conv with an activation or a sum behind it."""
    s.to(0, s.add("Conv", [s.input(0), s.input(1)], **s.kept("group", *PADDING)))
    return True


def conv_last(s: StandIns) -> bool:
    """Conv whose channels stand last; its weights are ONNX's."""
    rank = s.around.rank(s.input(1)) or len(s.attribute("kernel_shape", ())) + 2
    if rank < 3:
        return False
    before = s.channels_first(s.input(0), rank)
    result = s.add("Conv", [before, s.input(1)], **s.kept("group", *PADDING))
    s.to(0, s.channels_last(result, rank))
    return True


def quantized_conv(s: StandIns) -> bool:
    """QLinearConv, with its channels second or last."""
    inputs, rank = list(s.node.input), s.around.rank(s.input(3))
    last = s.attribute("channels_last", 0)
    if last:
        if rank is None:
            return False
        inputs[0] = s.channels_first(inputs[0], rank)
    result = s.add("QLinearConv", inputs, **s.kept("group", *PADDING))
    s.to(0, s.channels_last(result, rank) if last and rank else result)
    return True


def pool(op_type: str, last: bool) -> StandInRule:
    """Pooling, with channels second or last."""

    def rule(s: StandIns) -> bool:
        if s.attribute("ceil_mode", 0):
            # Whether a window that starts in the padding counts: onnx and onnxruntime differ.
            return False
        rank = len(s.attribute("kernel_shape", ())) + 2
        turned = last or s.attribute("channels_last", 0)
        source = s.channels_first(s.input(0), rank) if turned else s.input(0)
        more = ("count_include_pad",) if op_type == "AveragePool" else ("dilations",)
        result = s.add(op_type, [source], **s.kept(*POOLING, *more))
        s.to(0, s.channels_last(result, rank) if turned else result)
        return True

    return rule


def global_pool(op_type: str) -> StandInRule:
    """Pooling over all places, with channels second."""

    def rule(s: StandIns) -> bool:
        if s.attribute("channels_last", 0):
            return False
        s.to(0, s.add(op_type, [s.input(0)]))
        return True

    return rule


def to_blocks(s: StandIns) -> bool:
    """Channels in blocks: as many as fill the blocks of the processor, so unknown."""
    source = s.input(0)
    source = s.channels_first(source, 4) if s.attribute("channels_last", 0) else source
    s.to(0, s.einsum("nchw,rm->nmhw", source, s.add("NonZero", [source])))
    return True


def from_blocks(s: StandIns) -> bool:
    """Channels out of blocks: as many as the attribute says."""
    channels = s.attribute("channels", 0)
    if channels <= 0:
        return False
    result = s.einsum("nchw,m->nmhw", s.input(0), s.zeros(channels))
    s.to(0, s.channels_last(result, 4) if s.attribute("channels_last", 0) else result)
    return True
