"""What all runtimes ask of a model file before they load it."""

from __future__ import annotations

from pathlib import Path

from fassst_ros.types import ConfigError, ModelError

MEND = "Copy the model again from its release, or export it again with `fassst export`"


def read_model(model: Path) -> bytes:
    """The bytes of an ONNX file. Raises ModelError if there is none, or it is empty or unreadable."""
    try:
        data = model.read_bytes()
    except FileNotFoundError as err:
        raise ModelError(f"model file {model} does not exist. Give the path of an .onnx file") from err
    except OSError as err:
        raise ModelError(f"cannot read model file {model}: {err}") from err
    if not data:
        raise ModelError(f"model file {model} is empty. {MEND}")
    return data


def broken(model: Path, runtime: str, cause: object) -> ModelError:
    """The error for a file that a runtime cannot load."""
    reason = " ".join(str(cause).split())[:400]
    return ModelError(f"{runtime} cannot load {model}: {reason}. If the file is damaged: {MEND.lower()}")


def is_quantised(data: bytes) -> bool:
    """Whether an ONNX model carries 8-bit arithmetic (explicit Quantize/DequantizeLinear nodes)."""
    return b"QuantizeLinear" in data


def check_precision(precision: str, supported: tuple[str, ...], runtime: str, data: bytes) -> None:
    """Raise ConfigError unless this runtime can compute this model in `precision`.

    int8 is a property of the model, not a switch: it needs a model exported with quantisation.
    """
    if precision == "int8":
        if is_quantised(data):
            return
        raise ConfigError(
            "precision int8 was asked for, but this model computes in float: INT8 is a file of its own. Give "
            "NAME_int8.onnx (made by: fassst export WEIGHTS --int8 --calibration IMAGES_OR_BAG), or set "
            "precision to default"
        )
    if precision not in supported:
        raise ConfigError(
            f"precision {precision!r} was asked for; {runtime} offers {', '.join(supported)}. Set precision "
            "to one of these, or choose another runtime"
        )


def computed_in(precision: str, data: bytes) -> str:
    """The precision to report: int8 where the model is quantised, else what the runtime says."""
    return "int8" if is_quantised(data) else precision
