"""Buffers, streams and CUDA graphs against a stand-in for the driver (stub_cuda.c), which checks every call.

The stand-in is no GPU: this shows order, arguments, fallback and cleanup of our calls, not that CUDA or
TensorRT do what they promise (docs/runtimes.md).
"""

from __future__ import annotations

import ctypes
import logging
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fassst_ros.runtimes.base import TensorSpec
from fassst_ros.runtimes.cuda_driver import PROTOTYPES, Device, Driver
from fassst_ros.runtimes.tensorrt_lane import Lane, Lanes
from fassst_ros.types import ConfigError, RuntimeUnavailable

SHAPE = (1, 30, 50, 3)
IMAGES = TensorSpec("images", SHAPE, np.dtype(np.uint8))
NEGATIVE = TensorSpec("negative", SHAPE, np.dtype(np.uint8))
ONE_FRAME = ["cuMemcpyHtoDAsync_v2", "negative", "cuMemcpyDtoHAsync_v2"]
OUT_OF_MEMORY = 2


class Stub:
    """The stand-in: its driver, and what it tells of the calls that it got."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.stub_calls.restype = c_char_p
        self.library.stub_negative.argtypes = (c_uint64, c_uint64, c_size_t, c_void_p)
        self.driver = Driver(str(path))

    def calls(self) -> list[str]:
        """The functions called since the last `forget`."""
        return self.library.stub_calls().decode().split()

    def forget(self) -> None:
        self.library.stub_reset()

    def live(self) -> int:
        return int(self.library.stub_live())


class Context:
    """In place of trt.IExecutionContext: keeps what it is given, and queues the stand-in's kernel."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return (name, shape) == ("images", SHAPE)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return name in ("images", "negative")

    def execute_async_v3(self, stream: int) -> bool:
        to, source = self._addresses["negative"], self._addresses["images"]
        return self._stub.library.stub_negative(to, source, int(np.prod(SHAPE)), stream) == 0


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler, which makes the stand-in for the CUDA driver")
    path = tmp_path_factory.mktemp("stub") / "libstub_cuda.so"
    source = Path(__file__).with_name("stub_cuda.c")
    options = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread")
    subprocess.run([compiler, *options, "-o", str(path), str(source)], check=True)
    return path


@pytest.fixture
def stub(library: Path) -> Iterator[Stub]:
    found = Stub(library)
    found.forget()
    yield found
    found.forget()
    assert found.live() == 0  # whatever the test did: nothing is left behind
    assert found.library.stub_depth() == 0


@pytest.fixture
def gpu(stub: Stub) -> Iterator[Device]:
    """The stand-in's device, current in this thread."""
    device = Device(stub.driver, 0)
    try:
        with device.current():
            stub.forget()
            yield device
    finally:
        device.close()


def open_lane(stub: Stub, log: list[str] | None = None) -> Lane:
    told: list[str] = [] if log is None else log
    return Lane(stub.driver, Context(stub), (IMAGES,), (NEGATIVE,), lambda: "no reason", told.append)


def frame(value: int) -> np.ndarray:
    return np.full(SHAPE, value, np.uint8)


def test_a_frame_is_one_launch_and_nothing_else(stub: Stub, gpu: Device) -> None:
    lane = open_lane(stub)
    assert stub.calls() == [
        "cuMemHostRegister_v2",
        *["cuMemAlloc_v2"] * 2,
        "cuStreamCreate",
        *ONE_FRAME,
        "cuStreamSynchronize",
        "cuStreamBeginCapture_v2",
        *ONE_FRAME,
        *("cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphDestroy"),
        *("cuGraphLaunch", "cuStreamSynchronize"),
    ]
    assert lane.is_graph
    for value in (3, 200):
        stub.forget()
        lane.inputs["images"][:] = value
        outputs = lane.run({"images": lane.inputs["images"]})
        assert stub.calls() == ["cuGraphLaunch", "cuStreamSynchronize"]
        assert (outputs["negative"] == 255 - value).all()
    lane.close()
    assert (outputs["negative"] == 55).all()  # host arrays outlive the memory of the GPU


@pytest.mark.parametrize("step", [8, 9, 10, 11, 12, 13, 15, 16])  # of the calls above; 14 destroys
def test_without_a_graph_frames_are_queued_step_by_step(stub: Stub, gpu: Device, step: int) -> None:
    """Whichever call of the capture fails: the stream is usable again, and the log says why."""
    stub.library.stub_fail(step + 1, OUT_OF_MEMORY)
    log: list[str] = []
    lane = open_lane(stub, log)
    failed = stub.calls()[step]
    assert not lane.is_graph
    assert len(log) == 1
    assert log[0].startswith("no CUDA graph, each frame is queued step by step (slower): ")
    assert f"{failed} failed: STUB_ERROR: as the test wants (2)" in log[0] or failed == "negative"
    stub.forget()
    assert (lane.run({"images": frame(9)})["negative"] == 246).all()
    assert stub.calls() == [*ONE_FRAME, "cuStreamSynchronize"]
    lane.close()


@pytest.mark.parametrize("step", range(1, 8))
def test_whatever_fails_while_opening_leaves_nothing(stub: Stub, gpu: Device, step: int) -> None:
    before = stub.live()
    stub.library.stub_fail(step + 1, OUT_OF_MEMORY)
    with pytest.raises(RuntimeUnavailable, match=r"failed: STUB_ERROR|could not execute the engine"):
        open_lane(stub)
    assert stub.live() == before


def test_memory_that_cannot_be_page_locked_costs_the_graph_only(
    stub: Stub, gpu: Device, caplog: pytest.LogCaptureFixture
) -> None:
    stub.library.stub_fail(1, OUT_OF_MEMORY)
    log: list[str] = []
    with caplog.at_level(logging.WARNING):
        lane = open_lane(stub, log)
    assert "could not be page-locked" in caplog.text
    assert not lane.is_graph
    assert len(log) == 1
    assert (lane.run({"images": frame(1)})["negative"] == 254).all()
    lane.close()


def test_a_refused_tensor_is_named(stub: Stub, gpu: Device) -> None:
    other = TensorSpec("images", (1, 2, 3, 3), np.dtype(np.uint8))
    with pytest.raises(RuntimeUnavailable, match=r"shape of images uint8 \(1, 2, 3, 3\)\): no reason"):
        Lane(stub.driver, Context(stub), (other,), (NEGATIVE,), lambda: "no reason", print)


def test_lent_frames_are_not_copied_and_others_do_not_touch_them(stub: Stub, gpu: Device) -> None:
    lanes = Lanes(lambda: open_lane(stub))
    first, second = lanes.lend(), lanes.lend()
    first["images"][:], second["images"][:] = 10, 20
    assert (lanes.run({"images": frame(30)})["negative"] == 225).all()
    one, two = lanes.run(first)["negative"], lanes.run(second)["negative"]
    assert (one == 245).all()  # still valid: another set was fed since
    assert (two == 235).all()
    assert (first["images"] == 10).all()
    assert (lanes.run({"images": frame(31)})["negative"] == 224).all()
    assert (one == 245).all()
    lanes.close()


def test_one_thread_needs_one_lane(stub: Stub, gpu: Device) -> None:
    lanes = Lanes(lambda: open_lane(stub))
    alone = stub.live()
    inputs = lanes.lend()
    lanes.run(inputs)
    assert stub.live() == alone
    lanes.close()


def test_threads_with_lanes_of_their_own_do_not_mix(stub: Stub) -> None:
    device = Device(stub.driver, 0)
    with device.current():
        lanes = Lanes(lambda: open_lane(stub))
    wrong: list[int] = []

    def work(value: int) -> None:
        with device.current():
            inputs = lanes.lend()
            for add in range(50):
                inputs["images"][:] = value + add
                if not (lanes.run(inputs)["negative"] == 255 - value - add).all():
                    wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with device.current():
        lanes.close()
    device.close()
    assert wrong == []


def test_a_device_has_a_name_and_ends_with_its_context(stub: Stub) -> None:
    device = Device(stub.driver, 0)
    assert (device.name, device.compute_capability) == ("Stub of a GPU", "8.6")
    with pytest.raises(RuntimeUnavailable, match=r"cuMemAlloc_v2 failed: .*\(201\)"):  # not current here
        stub.driver.create("cuMemAlloc_v2", c_uint64, 64)
    device.close()
    with pytest.raises(ConfigError, match=r"device_id 1 was asked for; CUDA shows 1 GPU"):
        Device(stub.driver, 1)


KINDS: dict[str, Any] = {
    "int": c_int,
    "unsigned int": c_uint,
    "unsigned long long": c_uint64,
    "size_t": c_size_t,
    "CUresult": c_int,
    "CUdevice": c_int,
    "CUdevice_attribute": c_int,
    "CUstreamCaptureMode": c_int,
    "CUdeviceptr": c_uint64,
    "CUcontext": c_void_p,
    "CUstream": c_void_p,
    "CUgraph": c_void_p,
    "CUgraphExec": c_void_p,
    "char*": c_char_p,
    "void*": c_void_p,
}


def ctype_of(argument: str) -> Any:
    """The ctypes type of one argument of a C declaration, such as "const char **pStr"."""
    text = re.sub(r"\bconst\b", "", argument)
    text = re.sub(r"\w+\s*$", "", text).strip() if "*" in text or " " in text.strip() else text.strip()
    stars = text.count("*")
    text = " ".join(text.replace("*", " ").split())
    if stars and f"{text}*" in KINDS:
        text, stars = f"{text}*", stars - 1
    kind = KINDS[text]
    for _ in range(stars):
        kind = POINTER(kind)
    return kind


def cuda_header() -> str:
    """The text of cuda.h in NVIDIA's wheel."""
    for package in ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"):
        try:
            found = [file for file in files(package) or () if file.name == "cuda.h"]
        except PackageNotFoundError:
            continue
        if found:
            return Path(found[0].locate()).read_text(encoding="utf-8", errors="replace")
    pytest.skip("nvidia-cuda-runtime, whose wheel holds cuda.h, is not installed")


def test_our_prototypes_are_those_of_cuda_h() -> None:
    text = re.sub(r"/\*.*?\*/", "", cuda_header(), flags=re.DOTALL)
    for name, ours in PROTOTYPES.items():
        # the header declares a plain name, and defines it as that of the library: cuMemAlloc as cuMemAlloc_v2
        defined = re.search(rf"#\s*define\s+(\w+)\s+(?:__CUDA_API_PTSZ\()?{name}\b", text)
        plain = defined[1] if defined else name
        declared = re.search(rf"CUresult\s+CUDAAPI\s+{plain}\s*\(([^)]*)\)\s*;", text)
        assert declared is not None, name
        assert tuple(ctype_of(argument) for argument in declared[1].split(",")) == ours, name


def test_our_constants_are_those_of_cuda_h() -> None:
    text = cuda_header()
    for name, value in (
        ("CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR", 75),
        ("CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR", 76),
        ("CU_STREAM_NON_BLOCKING", 1),
        ("CU_STREAM_CAPTURE_MODE_THREAD_LOCAL", 1),
    ):
        found = re.search(rf"\b{name}\s*=\s*(0x[0-9a-f]+|\d+)", text)
        assert found is not None, name
        assert int(found[1], 0) == value
