"""PyTorch itself: the reference that the exported graph is compared with. Needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fassst_ros.card import ModelCard, load_card, sha256
from fassst_ros.config import RuntimeOptions
from fassst_ros.runtimes.base import INPUT_NAME, GraphRuntime, Log, default_log, usable_cores
from fassst_ros.runtimes.specs import expected_specs
from fassst_ros.types import ConfigError, ModelError, RuntimeUnavailable


class TorchRuntime(GraphRuntime):
    """Builds the network that the card names and loads the .safetensors beside the .onnx file.

    Runs in f32, on the GPU `device_id` where torch sees one, else on the CPU.
    Raises RuntimeUnavailable if torch is not installed, ModelError if card, weights and network do not
    fit together, ConfigError for a precision other than default or f32.
    """

    name = "torch"

    def __init__(self, model: Path, options: RuntimeOptions, log: Log = default_log) -> None:
        super().__init__()
        if options.precision not in ("default", "f32"):
            raise ConfigError(
                f"precision {options.precision!r} was asked for; torch offers default and f32. Set precision "
                "to one of these, or choose another runtime"
            )
        try:
            import torch
        except ImportError as err:
            raise RuntimeUnavailable(
                f"PyTorch cannot be imported ({err}). Install it: pip install torch, or take the runtime "
                "openvino or onnxruntime, which need none"
            ) from err
        card = load_card(model)
        self.inputs, self.outputs = expected_specs(card)
        threads = options.threads or usable_cores()
        torch.set_num_threads(threads)  # of the whole process: torch has no setting of a model's own
        self._torch: Any = torch
        if torch.cuda.is_available():
            if options.device_id >= torch.cuda.device_count():
                raise RuntimeUnavailable(
                    f"device_id {options.device_id} was asked for; torch sees {torch.cuda.device_count()} GPU"
                )
            self._device = torch.device("cuda", options.device_id)
            self.device = torch.cuda.get_device_name(self._device)
        else:
            self._device = torch.device("cpu")
            self.device = f"CPU ({threads} threads)"
        self._network: Any = load_network(model, card).to(self._device)
        self.precision = "f32"
        log(f"PyTorch {torch.__version__} on {self.device}, {self.precision}")

    def _run(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        torch = self._torch
        with torch.inference_mode():
            images = torch.from_numpy(feeds[INPUT_NAME]).to(self._device)
            values = self._network(images)
            arrays = [value.cpu().numpy() for value in values]
        return {
            spec.name: array.astype(spec.dtype, copy=False)
            for spec, array in zip(self.outputs, arrays, strict=True)
        }

    def _free(self) -> None:
        self._network = None
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()


def load_network(model: Path, card: ModelCard) -> Any:
    """The card's network with the weights beside `model`, ready to evaluate, in float32 on the CPU.

    Raises ModelError if the weights are missing, damaged, or do not fit the network.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from fassst_ros.networks import build_network
    from fassst_ros.networks.frame_input import FrameInput

    path = model.with_suffix(".safetensors")
    if not path.is_file():
        raise ModelError(f"no weights {path} beside the model. Copy the .safetensors from the same release")
    expected = card.files.get(path.name)
    if expected is not None and sha256(path) != expected:
        raise ModelError(f"{path} does not have the sha256 of its card. Copy both from the same release")
    try:
        network = build_network(card.network, **card.config)
        weights = {
            name: value.float() if value.dtype == torch.float16 else value
            for name, value in load_file(path).items()
        }
        network.load_state_dict(weights, strict=True)
    except (ConfigError, SafetensorError, RuntimeError, OSError) as err:
        reason = " ".join(str(err).split())[:400]
        raise ModelError(
            f"{path} does not fit network {card.network!r}: {reason}. Copy weights and card from the same "
            "release"
        ) from err
    if card.resize is not None:
        network = FrameInput(network, (card.input_height, card.input_width))
    return network.eval()
