"""Start a backbone from published weights: a folded MobileNetV2 .pt or a YOLOX-nano .onnx."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fassst_ros.networks.backbones import Backbone, load_convolutions
from fassst_ros.types import ModelError

log = logging.getLogger(__name__)


def load_backbone(backbone: Backbone, path: Path) -> None:
    """Copy the convolutions of `path` into `backbone`, in running order.

    .pt: dict "NN.*.weight" / "NN.*.bias"; .onnx: the graph's Conv nodes.
    Raises ModelError if the file cannot be read or does not fit the backbone.
    """
    try:
        pairs = _from_onnx(path) if path.suffix == ".onnx" else _from_state(path)
        load_convolutions(backbone, pairs)
    except (OSError, ValueError, KeyError, RuntimeError) as err:
        raise ModelError(f"cannot start {type(backbone).__name__} from {path}: {err}") from err


def load_initial(network: nn.Module, path: Path) -> None:
    """Take from a .safetensors every tensor whose name and shape fit, and log what is left out.

    So a head for other classes starts anew on a body that has learnt. Raises ModelError if nothing fits.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        given = load_file(path)
    except (OSError, SafetensorError) as err:
        raise ModelError(f"cannot read initial weights {path}: {err}") from err
    own = network.state_dict()
    fitting = {k: v.to(own[k].dtype) for k, v in given.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise ModelError(f"no tensor of {path} fits the network; it is of another kind")
    network.load_state_dict(fitting, strict=False)
    missing = sorted(set(own) - set(fitting))
    log.info("%d of %d tensors from %s; new: %s", len(fitting), len(own), path, ", ".join(missing) or "none")


def _from_state(path: Path) -> list[tuple[Tensor, Tensor]]:
    state = torch.load(path, weights_only=True, map_location="cpu")
    prefixes = sorted({key.rsplit(".", 1)[0] for key in state})
    return [(state[f"{p}.weight"], state[f"{p}.bias"]) for p in prefixes]


def _from_onnx(path: Path) -> list[tuple[Tensor, Tensor]]:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import numpy_helper

    try:
        graph = onnx.load(str(path)).graph
    except DecodeError as err:
        raise ValueError(f"not an ONNX file ({err})") from err
    arrays = {i.name: i for i in graph.initializer}

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(np.array(numpy_helper.to_array(arrays[name])))

    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    return [(tensor(node.input[1]), tensor(node.input[2])) for node in convolutions]
