"""Constants of an ONNX graph that several nodes share."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def separate(model: Any, kinds: Collection[str], position: int, name: str) -> None:
    """Give each node of these operators a constant of its own as its input number `position`, in place.

    name: what the copies are called, after their node's name.
    """
    import onnx

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    used: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in kinds or len(node.input) <= position:
            continue
        shared = node.input[position]
        if shared in used and shared in tensors:
            own = onnx.TensorProto()
            own.CopyFrom(tensors[shared])
            own.name = node.input[position] = f"{node.name}.{name}"
            model.graph.initializer.append(own)
        used.add(shared)
