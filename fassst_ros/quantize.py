"""INT8: an exported ONNX graph with explicit QuantizeLinear and DequantizeLinear nodes, calibrated on images.

onnxruntime.quantization measures the ranges and places the nodes; here stands what is quantised and how, by
measurement (docs/runtimes.md, INT8).
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fassst_ros.card import ModelCard, card_path, embed_card, sha256
from fassst_ros.equalise import equalise
from fassst_ros.onnx_tensors import separate
from fassst_ros.runtimes.base import INPUT_NAME
from fassst_ros.types import ModelError

#: How many of the images channels are compared on; a mean of peaks needs no more.
EQUALISED_ON = 16
#: Operators that compute in 8 bits, and those that features pass in float, or in either.
_LAYERS = ("Conv", "Add", "Concat", "MaxPool", "Resize", "Relu", "ConvTranspose")
_PASSED = (
    *("Cast", "Reshape", "Transpose", "Flatten", "Squeeze", "GridSample", "Pad", "AveragePool"),
    *("Mul", "Div", "Sub", "Clip", "HardSwish", "LeakyRelu"),
)
#: Inputs with fewer channels than this are images: 8-bit convolutions of them are slower than float ones.
_FEWEST_CHANNELS = 8


@dataclass(frozen=True, slots=True)
class Scheme:
    """How numbers become 8 bits. signed: activations are -127..127, else 0..255 with a zero point."""

    signed: bool
    quantise_bias: bool


#: cpu: a zero point at the lowest value makes ReLU part of the rounding. tensorrt: what it accepts.
SCHEMES = {"cpu": Scheme(False, True), "tensorrt": Scheme(True, False)}


def quantise(
    model: Path, images: Sequence[NDArray[np.uint8]], scheme: str, out: Path, card: ModelCard
) -> None:
    """Write an INT8 version of `model` to `out`, and beside it `card`, with what was done.

    images: network inputs (1, H, W, 3) uint8 RGB such as the model will see; ranges are averages over
    them. scheme: a name of SCHEMES. Weights are rounded for each output channel.
    Raises ModelError where nothing can be quantised, as in a graph that is.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    graph = onnx.load(str(model))
    chosen = layers_to_quantise(graph)
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv" and node.name in chosen]
    if not convolutions or any(node.op_type == "QuantizeLinear" for node in graph.graph.node):
        raise ModelError(f"{model.name} has no float convolutions to quantise; give the model of an export")
    separate(graph, ("Conv", "ConvTranspose"), 1, "weight")  # no DequantizeLinear that two read is fused
    equalise(graph, images[:EQUALISED_ON])
    how = SCHEMES[scheme]
    with tempfile.TemporaryDirectory() as beside, _quiet():
        source = Path(beside) / "separate.onnx"
        onnx.save(graph, str(source))
        quantize_static(
            source,
            out,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if how.signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(_LAYERS),
            nodes_to_exclude=[node.name for node in graph.graph.node if node.name not in chosen],
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": how.signed,
                "WeightSymmetric": True,
                "QuantizeBias": how.quantise_bias,
                "CalibMovingAverage": True,
                "CalibMovingAverageConstant": 0.05,
            },
        )
    written = onnx.load(str(out))
    total = sum(node.op_type == "Conv" for node in graph.graph.node)
    facts = {"precision": "int8", "scheme": scheme, "convolutions": f"{len(convolutions)} of {total}"}
    card = dataclasses.replace(card, quantisation={**facts, **card.quantisation}, files={})
    embed_card(written, card)
    onnx.checker.check_model(written)
    onnx.save(written, str(out))
    card = dataclasses.replace(card, files={out.name: sha256(out)})
    card_path(out).write_text(card.to_json(), encoding="utf-8")


def layers_to_quantise(model: Any) -> set[str]:
    """Names of the nodes that compute in 8 bits.

    Of what is reached from the image through features alone: what a convolution reads in the end, and the
    convolution that draws the masks. Not the first convolutions, nor those that state classes and boxes:
    of these, a 256th of the range is several pixels, and they are few multiplications.
    """
    nodes = list(model.graph.node)
    channels = {t.name: t.dims[1] for t in model.graph.initializer if len(t.dims) == 4}
    reached, feature_nodes = {INPUT_NAME}, []
    for node in nodes:
        if node.op_type in _LAYERS + _PASSED and reached.issuperset(_data(node)):
            reached.update(node.output)
            feature_nodes.append(node)
    drawn = _reaches_masks(nodes)
    needed: set[str] = set()
    chosen = set()
    for node in reversed(feature_nodes):
        feeds = bool(needed.intersection(node.output))
        convolves = node.op_type in ("Conv", "ConvTranspose")
        if convolves and channels.get(node.input[1], 0) * _groups(node) < _FEWEST_CHANNELS:
            continue
        if convolves or feeds:
            needed.update(_data(node))
        if node.op_type in _LAYERS and (feeds or (convolves and drawn.intersection(node.output))):
            chosen.add(node.name)
    return chosen


def _data(node: Any) -> list[str]:
    """The inputs of a node that are features."""
    return list(node.input if node.op_type in ("Add", "Concat") else node.input[:1])


def _reaches_masks(nodes: list[Any]) -> set[str]:
    """Tensors from which `masks` is made without a layer between."""
    found = {"masks"}
    for node in reversed(nodes):
        if node.op_type in (*_PASSED, "Sigmoid") and found.intersection(node.output):
            found.add(node.input[0])
    return found


def _groups(node: Any) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


class _Reader:
    """What onnxruntime.quantization asks of its source of images."""

    def __init__(self, images: Iterable[NDArray[np.uint8]]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT_NAME: image}

    def __iter__(self) -> Iterator[dict[str, NDArray[np.uint8]]]:
        return iter(self.get_next, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's advice to run its shape inference first: our graphs are slimmed already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
