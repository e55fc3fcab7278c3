"""Models that are made only to be measured: other input sizes, other numbers of slots, other networks.

Their cost does not depend on what their weights are, so they are executed without being compared with torch.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fassst_ros.card import MaskInfo, ModelCard, card_path, sha256
from fassst_ros.types import FassstError, ModelError, RuntimeUnavailable

if TYPE_CHECKING:
    from fassst_ros.networks.base import SegmentationNetwork


def export_changed(model: Path, folder: Path, name: str, **changes: Any) -> Path:
    """The network of `model`, from the weights beside it, with other arguments, as folder/NAME.onnx.

    Raises RuntimeUnavailable without torch, ModelError without weights or for changes that it refuses.
    """
    from fassst_ros.export import load_network

    weights = model.with_suffix(".safetensors")
    if not weights.is_file():
        raise ModelError(f"{weights.name} is not beside {model.name}: its network cannot be changed")
    try:
        network, card = load_network(weights, **changes)
    except ModuleNotFoundError as err:
        raise _needs(err) from err
    return _write(network, card, folder, name)


def export_untrained(network: str, card: ModelCard, folder: Path, name: str, **config: Any) -> Path:
    """A network with random weights, the classes and input size of `card`, as folder/NAME.onnx with its card.

    Raises RuntimeUnavailable without torch.
    """
    try:
        import torch

        from fassst_ros.networks import build_network
    except ModuleNotFoundError as err:
        raise _needs(err) from err
    torch.manual_seed(0)
    size = (card.input_height, card.input_width)
    built = build_network(network, num_classes=len(card.classes), input_size=size, **config)
    return _write(built.eval(), card, folder, name)


def resized(model: Path, side: int, folder: Path) -> Path:
    """A graph of convolutions with input (1, 3, S, S) for another S, a multiple of 32, with its weights.

    Raises RuntimeUnavailable without onnx, ModelError if the graph depends on its size.
    """
    try:
        import onnx
    except ModuleNotFoundError as err:
        raise _needs(err) from err
    try:
        graph = onnx.load(model)
        for dim in graph.graph.input[0].type.tensor_type.shape.dim[2:]:
            dim.dim_value = side
        del graph.graph.value_info[:]
        for output in graph.graph.output:
            output.type.tensor_type.ClearField("shape")
        graph = onnx.shape_inference.infer_shapes(graph, strict_mode=True)
    except Exception as err:  # what onnx and protobuf raise shares no base class
        raise ModelError(f"{model.name} cannot be resized to {side}x{side}: {err}") from err
    path = folder / f"{model.stem}_{side}.onnx"
    onnx.save(graph, path)
    return path


def _needs(err: ModuleNotFoundError) -> FassstError:
    return RuntimeUnavailable(f"it needs {err.name}: pip install 'fassst_ros[train]'")


def _write(network: SegmentationNetwork, card: ModelCard, folder: Path, name: str) -> Path:
    from fassst_ros.export import write_onnx

    height, width = network.input_size
    card = dataclasses.replace(
        card,
        name=name,
        input_height=height,
        input_width=width,
        slots=network.slots,
        masks=MaskInfo(network.mask_kind, *network.mask_size, network.mask_threshold, network.mask_padding),
        files={},
    )
    path = folder / f"{name}.onnx"
    write_onnx(network, card, path)
    card = dataclasses.replace(card, files={path.name: sha256(path)})
    card_path(path).write_text(card.to_json(), encoding="utf-8")
    return path
