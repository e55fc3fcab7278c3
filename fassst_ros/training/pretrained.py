"""Start a network from published weights (MobileNetV2, YOLOX-nano, ResNet-50) or from an earlier run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import Tensor, nn

from fassst_ros.card import ModelCard, card_path
from fassst_ros.labels import CLASS_LISTS
from fassst_ros.models import shipped_models
from fassst_ros.networks.backbones import CspDarknetNano, load_convolutions
from fassst_ros.networks.base import Backbone, SegmentationNetwork
from fassst_ros.networks.fassst_levels import LevelSlots
from fassst_ros.networks.resnet import ResNet50Fpn
from fassst_ros.types import ModelError

log = logging.getLogger(__name__)

#: What COCO annotates a class of ours as, where the name differs.
_COCO_NAME = {"rider": "person"}


def load_published(network: SegmentationNetwork, path: Path, classes: Sequence[str]) -> None:
    """Start the network's backbone from `path`, and its head where the file has one that fits.

    classes: names, in the network's order. Raises ModelError as `load_backbone` and `load_head`.
    """
    backbone = network.backbone
    load_backbone(backbone, path)
    iam = getattr(network, "iam", None)
    if isinstance(backbone, CspDarknetNano) and isinstance(iam, LevelSlots):
        load_head(iam, len(backbone.convolutions()), path, classes)


def load_backbone(backbone: Backbone, path: Path) -> None:
    """Copy the convolutions of `path` into `backbone`.

    mobilenet_v2: .pt, a dict "NN.*.weight", "NN.*.bias" in running order. cspdarknet_nano: .onnx, the
    graph's Conv nodes. resnet50_fpn: .pth, .pt or .safetensors with torchvision's names.
    Raises ModelError if the file cannot be read or does not fit the backbone.
    """
    try:
        if path.suffix == ".onnx":
            pairs = _from_onnx(path)
        elif isinstance(backbone, ResNet50Fpn):
            pairs = _fold_norms(_read_state(path), list(backbone.convolutions()))
        else:
            pairs = _from_folded(_read_state(path))
        load_convolutions(backbone, pairs)
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, UnpicklingError) as err:
        raise ModelError(f"cannot start {type(backbone).__name__} from {path}: {err}") from err


def load_head(iam: LevelSlots, skip: int, path: Path, classes: Sequence[str]) -> None:
    """Copy the head of a YOLOX-nano .onnx trained on COCO into `iam`, class by class.

    skip: convolutions of the file before its head. classes: names, in the network's order; those that
    COCO does not have start anew, a rider as a person. Raises ModelError if the file does not fit.
    """
    names = [c.name for c in CLASS_LISTS["coco"]]
    rows = _rows(classes, names)
    own, theirs = torch.tensor([i for i, r in enumerate(rows) if r >= 0]), [r for r in rows if r >= 0]
    try:
        pairs = _from_onnx(path)[skip:]
        for head, offset in zip(iam.heads, range(0, len(pairs), len(pairs) // len(iam.heads)), strict=True):
            convolutions = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
            given = pairs[offset : offset + len(convolutions)]
            for conv, (weight, bias) in zip(convolutions, given, strict=True):
                kept = own if conv is head.classify else slice(None)
                taken = theirs if conv is head.classify else slice(None)
                with torch.no_grad():
                    conv.weight[kept] = weight[taken]
                    conv.bias[kept] = bias[taken]  # type: ignore[index]
    except (OSError, ValueError, IndexError, KeyError, RuntimeError) as err:
        raise ModelError(f"cannot start the head from {path}: {err}; expected YOLOX-nano for COCO") from err


def find_initial(name: str, data_root: Path, entry: str = "initial_weights") -> Path:
    """The weights that a recipe names: a file below the data root, or a shipped model's name.

    entry: of the recipe, for the error. Raises ModelError if there is neither.
    """
    path = data_root / name
    if path.is_file():
        return path
    shipped = {model: file.with_suffix(".safetensors") for model, file in shipped_models().items()}
    if name not in shipped:
        raise ModelError(
            f"{entry}: no file {path}, and no shipped model {name!r}; shipped: {', '.join(shipped)}"
        )
    return shipped[name]


def load_initial(network: nn.Module, path: Path, classes: Sequence[str]) -> None:
    """Take from a .safetensors every tensor whose name and shape fit, and log what is left out.

    Where only the number of classes differs, rows are taken class by class, by the names in the card
    beside the file (a rider as a person). classes: names, in the network's order. So a model for other
    classes starts with what it knows of them. Raises ModelError if nothing fits.
    """
    card = card_path(path)
    try:
        given = _read_safetensors(path)
        theirs = (
            [c.name for c in ModelCard.from_json(card.read_text("utf-8"), str(card)).classes]
            if card.is_file()
            else []
        )
    except (OSError, ValueError) as err:
        raise ModelError(f"cannot read initial weights {path}: {err}") from err
    own = network.state_dict()
    fitting = {k: v.to(own[k].dtype) for k, v in given.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise ModelError(f"no tensor of {path} fits the network; it is of another kind")
    rows = _rows(classes, theirs)
    for name in set(own) & set(given) - set(fitting):
        rest = own[name].shape[1:]
        if own[name].shape == (len(classes), *rest) and given[name].shape == (len(theirs), *rest):
            fitting[name] = own[name].clone()
            for i, row in enumerate(rows):
                if row >= 0:
                    fitting[name][i] = given[name][row]
    network.load_state_dict(fitting, strict=False)
    missing = sorted(set(own) - set(fitting))
    log.info("%d of %d tensors from %s; new: %s", len(fitting), len(own), path, ", ".join(missing) or "none")
    fresh = [c for c, row in zip(classes, rows, strict=True) if row < 0]
    if theirs and fresh:
        log.info("new classes: %s", ", ".join(fresh))


def _rows(classes: Sequence[str], known: Sequence[str]) -> list[int]:
    """The index in `known` of each class, under COCO's name if not under its own; -1: in neither."""
    names = (c if c in known else _COCO_NAME.get(c, c) for c in classes)
    return [known.index(n) if n in known else -1 for n in names]


def _read_state(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file; raises ValueError if it holds anything else."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    state = torch.load(path, weights_only=True, map_location="cpu")
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("expected a state dict, name -> tensor; save that part of the checkpoint alone")
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as err:
        raise ValueError(f"not a safetensors file ({err})") from err


def _from_folded(state: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    prefixes = sorted({key.rsplit(".", 1)[0] for key in state})
    return [(state[f"{p}.weight"], state[f"{p}.bias"]) for p in prefixes]


def _fold_norms(state: dict[str, Tensor], names: list[str]) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each named convolution of a torchvision ResNet, its BatchNorm folded in.

    Raises ValueError for a missing tensor, a wrong shape, or tensors of another network besides.
    """
    state = {k: v for k, v in state.items() if not k.startswith("fc.") and "num_batches" not in k}
    pairs = []
    for name in names:
        norm = name.replace("conv", "bn").replace("downsample.0", "downsample.1")
        keys = [f"{name}.weight", *(f"{norm}.{p}" for p in ("weight", "bias", "running_mean", "running_var"))]
        missing = [key for key in keys if key not in state]
        if missing:
            raise ValueError(f"{missing[0]} is missing; expected the names of torchvision's resnet50")
        weight, *statistics = (state.pop(key).double() for key in keys)
        for key, value in zip(keys[1:], statistics, strict=True):
            if value.shape != weight.shape[:1]:
                raise ValueError(f"{key}: {tuple(value.shape)} came, {tuple(weight.shape[:1])} expected")
        gain, shift, mean, variance = statistics
        gain = gain / torch.sqrt(variance + 1e-5)  # torchvision's epsilon
        pairs.append((weight * gain[:, None, None, None], shift - mean * gain))
    if state:
        raise ValueError(f"{len(state)} tensors are left over, such as {next(iter(state))}: no ResNet-50")
    return pairs


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
