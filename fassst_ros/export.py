"""`fassst export`: trained weights -> ONNX with card, executed and compared before it is reported."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fassst_ros.calibration import calibration_images
from fassst_ros.card import MaskInfo, ModelCard, card_path, embed_card, load_card, sha256
from fassst_ros.onnx_tensors import separate
from fassst_ros.parity import TOLERANCE, parity
from fassst_ros.quantize import SCHEMES, quantise
from fassst_ros.runtimes.base import INPUT_NAME, OUTPUT_NAMES
from fassst_ros.types import ConfigError, ModelError

if TYPE_CHECKING:
    from fassst_ros.networks.base import SegmentationNetwork

OPSET = 17  # from 20 on GridSample turns NEAREST in TensorRT up to 11.1


def load_network(weights: Path, **changes: Any) -> tuple[SegmentationNetwork, ModelCard]:
    """The network of a .safetensors file with its card beside it, in evaluation mode.

    changes: arguments of the network to replace, such as input_size.
    Raises ModelError if the files are missing or do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from fassst_ros.networks import build_network

    path = card_path(weights)
    try:
        card = ModelCard.from_json(path.read_text(encoding="utf-8"), str(path))
        state = load_file(weights)
    except (OSError, SafetensorError) as err:
        raise ModelError(f"cannot read {weights} and its card {path.name}: {err}") from err
    config = {**card.config, **changes}
    try:
        network = build_network(card.network, **config)
        network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except (ValueError, RuntimeError) as err:
        raise ModelError(f"{weights} does not fit network {card.network} with {config}: {err}") from err
    height, width = network.input_size  # of a card for whole frames, this is not the input that it states
    card = dataclasses.replace(card, config=config, input_height=height, input_width=width, resize=None)
    return network.eval(), card


def save_weights(network: SegmentationNetwork, card: ModelCard, path: Path) -> None:
    """Write NAME.safetensors in float16 and NAME.json beside it. Raises ModelError if that is impossible."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save

    state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    if not all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point()):
        raise ModelError(f"weights for {path} are not finite in float16; nothing was written")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not save_file, whose files only their owner can read.
        path.with_suffix(".tmp").write_bytes(save({k: v.contiguous() for k, v in state.items()}))
        path.with_suffix(".tmp").replace(path)
        card_path(path).write_text(card.to_json(), encoding="utf-8")
    except (OSError, SafetensorError) as err:
        raise ModelError(f"cannot write {path} and its card: {err}") from err


def export_model(
    network: SegmentationNetwork, card: ModelCard, folder: Path, frame_size: tuple[int, int] | None = None
) -> tuple[Path, dict[str, float]]:
    """Write NAME.onnx, NAME.safetensors and NAME.json; returns the .onnx path and its parity errors.

    frame_size: (height, width) of the camera, to put the resize into the graph; None to leave it outside.
    Weights are rounded to float16 first, so that all files hold the same numbers. Files of that name are
    replaced at the end, when the new ones are known to be right.
    Raises ModelError if ONNX Runtime and torch disagree by more than TOLERANCE, or nothing can be written.
    """
    from fassst_ros.networks.frame_input import FrameInput

    rounded = {k: v.half().float() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    network.load_state_dict(rounded)
    network.eval()
    graph = network if frame_size is None else FrameInput(network, frame_size).eval()
    height, width = graph.input_size
    card = dataclasses.replace(
        card,
        input_height=height,
        input_width=width,
        resize=None if frame_size is None else network.input_size,
        slots=network.slots,
        masks=MaskInfo(network.mask_kind, *network.mask_size, card.masks.threshold, network.mask_padding),
        files={},
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export_", dir=folder) as beside:
            errors = _export_checked(network, graph, card, Path(beside))
            for path in Path(beside).iterdir():
                path.replace(folder / path.name)
    except OSError as err:
        raise ModelError(f"cannot export to {folder}: {err}") from err
    return folder / f"{card.name}.onnx", errors


def _export_checked(
    network: SegmentationNetwork, graph: SegmentationNetwork, card: ModelCard, folder: Path
) -> dict[str, float]:
    """Write the weights of `network`, `graph` as ONNX and the card; compare; returns the parity errors."""
    weights, model = folder / f"{card.name}.safetensors", folder / f"{card.name}.onnx"
    save_weights(network, card, weights)
    write_onnx(graph, card, model)
    errors = parity(graph, model)
    too_far = {k: v for k, v in errors.items() if not v < TOLERANCE[k]}
    if too_far:
        raise ModelError(
            f"{model.name} was not written: ONNX Runtime and torch differ by {too_far}; allowed {TOLERANCE}. "
            "Where slots tie, as in a hardly trained network, rounding decides between them: train longer"
        )
    card = dataclasses.replace(card, files={p.name: sha256(p) for p in (model, weights)})
    card_path(model).write_text(card.to_json(), encoding="utf-8")
    return errors


def write_onnx(network: SegmentationNetwork, card: ModelCard, path: Path) -> None:
    """Write the graph of a network in evaluation mode; it is neither executed nor compared."""
    import onnx
    import onnxslim
    import torch

    example = torch.zeros((1, *network.input_size, 3), dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's remarks on static shapes
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        # The dynamo exporter needs onnxscript and opset 18; tracing is enough for static shapes.
        torch.onnx.export(
            network,
            (example,),
            str(path),
            input_names=[INPUT_NAME],
            output_names=list(OUTPUT_NAMES),
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnxslim.slim(onnx.load(str(path)))
    # OpenVINO fuses no bias that two Convs read, nor what follows it: layers that run twice (FASSST's two
    # scales) would take a third longer.
    separate(model, ("Conv",), 2, "bias")
    embed_card(model, card)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _parse_size(option: str, text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text.lower())
    if found is None:
        raise ConfigError(f"{option} {text!r}; expected HEIGHTxWIDTH such as 512x1024")
    return int(found[1]), int(found[2])


def export_int8(
    model: Path, images: Sequence[NDArray[np.uint8]], scheme: str, facts: Mapping[str, Any]
) -> Path:
    """Write NAME_int8.onnx and its card beside an exported model; returns its path.

    images: network inputs (1, H, W, 3) uint8 RGB; scheme: of quantize.SCHEMES; facts: for the card.
    Raises ModelError if the model cannot be quantised or nothing can be written; earlier files stay then.
    """
    card = load_card(model)
    made_from = {"model": model.name, "sha256": card.files[model.name]}
    card = dataclasses.replace(
        card, name=f"{card.name}_int8", metrics={}, quantisation={**made_from, **facts}, files={}
    )
    try:
        with tempfile.TemporaryDirectory(prefix=".int8_", dir=model.parent) as beside:
            quantise(model, images, scheme, Path(beside) / f"{card.name}.onnx", card)
            for path in Path(beside).iterdir():
                path.replace(model.parent / path.name)
    except OSError as err:
        raise ModelError(f"cannot write {card.name}.onnx to {model.parent}: {err}") from err
    return model.parent / f"{card.name}.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fassst export`."""
    parser.add_argument("weights", type=Path, help=".safetensors file with its card (.json) beside it")
    parser.add_argument("--out", type=Path, default=Path("exported"), help="folder for the model's files")
    parser.add_argument("--name", help="name of the exported model; default: that of the card")
    parser.add_argument(
        "--score-threshold", type=float, help="what the model's users keep unless they ask otherwise"
    )
    parser.add_argument("--input-size", help="HEIGHTxWIDTH of another static input, multiples of 32")
    parser.add_argument(
        "--frame-size",
        metavar="HEIGHTxWIDTH",
        help="of the camera: the model takes its whole frames, and the resize runs inside, on the GPU "
        "(TensorRT; on a CPU it is slower than outside). _HEIGHTxWIDTH is added to the name of the card",
    )
    quantised = parser.add_argument_group("INT8")
    quantised.add_argument(
        "--int8", action="store_true", help="also write NAME_int8.onnx, which computes in 8 bits"
    )
    quantised.add_argument(
        "--int8-for",
        choices=sorted(SCHEMES),
        default="cpu",
        help="OpenVINO and ONNX Runtime (cpu, the default), or TensorRT, which takes symmetric ranges only",
    )
    quantised.add_argument(
        "--calibration",
        nargs="+",
        default=[],
        metavar="PATH",
        help="images like those that the model will see: folders, files, videos or bags. Not those of the "
        "evaluation",
    )
    quantised.add_argument(
        "--calibration-images", type=int, default=64, metavar="N", help="how many of them (default: 64)"
    )


def run(args: argparse.Namespace) -> int:
    """Export, compare, report. Returns 0; problems are raised as FassstError."""
    changes = {"input_size": _parse_size("--input-size", args.input_size)} if args.input_size else {}
    frame_size = _parse_size("--frame-size", args.frame_size) if args.frame_size else None
    if args.int8 != bool(args.calibration) or args.calibration_images < 1:
        raise ConfigError(
            "--int8 and --calibration belong together, with --calibration-images of 1 or more; "
            "expected --int8 --calibration FOLDER_OR_BAG"
        )
    network, card = load_network(args.weights, **changes)
    threshold = card.score_threshold if args.score_threshold is None else args.score_threshold
    if not 0 <= threshold <= 1:
        raise ConfigError(f"--score-threshold {threshold}; expected a value in [0, 1]")
    name = card.name if frame_size is None else f"{card.name}_{frame_size[0]}x{frame_size[1]}"
    card = dataclasses.replace(card, name=args.name or name, score_threshold=threshold)
    size = frame_size or network.input_size
    # read before the rest, so that a wrong path is told at once
    images = calibration_images(args.calibration, *size, args.calibration_images) if args.int8 else []
    model, errors = export_model(network, card, args.out, frame_size)
    sizes = [network.input_size] if frame_size is None else [frame_size, network.input_size]
    how = ", resized inside to ".join(f"{height}x{width}" for height, width in sizes)
    print(f"{model}: {model.stat().st_size / 1e6:.1f} MB, input {how}")
    print("largest difference from torch: " + ", ".join(f"{k} {v:.1e}" for k, v in errors.items()))
    if args.int8:
        print(f"calibrating INT8 on {len(images)} images")
        facts = {"images": len(images), "calibration": [Path(name).name for name in args.calibration]}
        int8 = export_int8(model, images, args.int8_for, facts)
        share = load_card(int8).quantisation["convolutions"]
        print(f"{int8}: {int8.stat().st_size / 1e6:.1f} MB, {share} convolutions in 8 bits ({args.int8_for})")
        print(f"what it costs in accuracy: fassst compare or fassst eval {model} and {int8}")
    return 0
