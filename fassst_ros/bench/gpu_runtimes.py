"""What TensorRT is compared with on its own GPU: torch, torch.compile and ONNX Runtime, as runtimes.

For the benchmark only. Frames come from page-locked memory where the library knows it, and outputs end in
the host's memory, as with TensorRT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fassst_ros.card import load_card
from fassst_ros.config import RuntimeOptions
from fassst_ros.runtimes.base import INPUT_NAME, GraphRuntime
from fassst_ros.runtimes.half_precision import to_half
from fassst_ros.runtimes.model_file import broken, read_model
from fassst_ros.runtimes.onnxruntime_runtime import spec_of
from fassst_ros.runtimes.specs import expected_specs
from fassst_ros.runtimes.torch_runtime import load_network
from fassst_ros.types import RuntimeUnavailable


class TorchOn(GraphRuntime):
    """The network in torch on "cuda" or "cpu"; compiled: by torch.compile, with CUDA graphs where there are.

    precision: "f32" (without TF32), or "fp16" by autocast.
    Raises RuntimeUnavailable if torch cannot compile or execute it, ModelError as `load_network`.
    """

    def __init__(self, model: Path, options: RuntimeOptions, device: str, compiled: bool = False) -> None:
        super().__init__()
        import torch

        self.name = "torch.compile" if compiled else "torch"
        self.precision = options.precision
        self._torch: Any = torch
        self._cuda = device == "cuda"
        self._device = torch.device("cuda", options.device_id) if self._cuda else torch.device("cpu")
        self.device = torch.cuda.get_device_name(self._device) if self._cuda else "CPU"
        card = load_card(model)
        self.inputs, self.outputs = expected_specs(card)
        network = load_network(model, card).to(self._device)
        if self.precision == "fp16":  # what tensor cores read
            network = network.to(memory_format=torch.channels_last)
        if compiled:
            network = torch.compile(network, mode="reduce-overhead" if self._cuda else "default")
        self._network: Any = network
        self.infer(self.lend())  # compiles; a failure is told here

    def _lend(self) -> dict[str, NDArray[Any]]:
        torch, spec = self._torch, self.inputs[0]
        images = torch.zeros(spec.shape, dtype=torch.uint8, pin_memory=self._cuda)
        return {spec.name: images.numpy()}

    def _run(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        torch = self._torch
        half = self.precision == "fp16"
        with (
            torch.no_grad(),
            torch.autocast(self._device.type, torch.float16, enabled=half),
            # the fastest algorithm, as TensorRT chooses it; cuDNN takes TF32 for f32 unless told otherwise
            torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False),
        ):
            images = torch.from_numpy(feeds[INPUT_NAME]).to(self._device, non_blocking=True)
            values = [value.cpu().numpy() for value in self._network(images)]
        return {s.name: v.astype(s.dtype, copy=False) for s, v in zip(self.outputs, values, strict=True)}

    def _free(self) -> None:
        self._network = None
        if self._cuda:
            self._torch.cuda.empty_cache()


class OnnxRuntimeOn(GraphRuntime):
    """An ONNX file in ONNX Runtime on "cuda" or "cpu", in "f32" or converted to "fp16".

    Raises RuntimeUnavailable if this onnxruntime has no such provider or it does not start, ModelError for
    a file that it cannot load.
    """

    name = "onnxruntime"

    def __init__(self, model: Path, options: RuntimeOptions, device: str) -> None:
        super().__init__()
        import onnxruntime as ort

        provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
        if provider not in ort.get_available_providers():
            raise RuntimeUnavailable(
                f"this onnxruntime has no {provider}. Install onnxruntime-gpu in place of onnxruntime"
            )
        data = read_model(model)
        self.precision = options.precision
        if self.precision == "fp16":
            data = to_half(data)
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        asked = {"device_id": options.device_id, "use_tf32": 0, "cudnn_conv_algo_search": "EXHAUSTIVE"}
        chosen = (provider, asked) if device == "cuda" else provider
        try:
            session = ort.InferenceSession(data, settings, providers=[chosen])
            self.inputs = tuple(spec_of(tensor) for tensor in session.get_inputs())
            self.outputs = tuple(spec_of(tensor) for tensor in session.get_outputs())
        except Exception as err:  # the exceptions of ONNX Runtime share no base class of their own
            raise broken(model, "ONNX Runtime", err) from err
        if session.get_providers()[0] != provider:  # it falls back to the CPU without an error
            raise RuntimeUnavailable(f"{provider} does not start; its CUDA or cuDNN libraries do not fit")
        self._session: Any = session
        self._names = [spec.name for spec in self.outputs]
        self.device = device.upper()

    def _run(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))

    def _free(self) -> None:
        self._session = None
