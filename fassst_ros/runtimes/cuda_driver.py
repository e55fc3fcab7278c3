"""The part of the CUDA driver that TensorRT needs beside it, called through ctypes.

Why not cuda-python: libcuda.so.1 comes with every NVIDIA driver, on Jetson too, and its functions
have been stable since CUDA 11.4; cuda-python must match the CUDA major version and is one more
package to install. Source: cuda.h of CUDA 11.4 to 13 ("CUDA Driver API" by NVIDIA).
"""

from __future__ import annotations

import ctypes
import logging
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fassst_ros.runtimes.base import TensorSpec
from fassst_ros.types import ConfigError, RuntimeUnavailable

LIBRARY = "libcuda.so.1"

#: Function -> argument types. Names are those of the library; _v2 is what cuda.h means by the plain name.
PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (POINTER(c_void_p),),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostRegister_v2": (c_void_p, c_size_t, c_uint),
    "cuMemHostUnregister": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_uint64),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
}

COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76
STREAM_NON_BLOCKING = 1
CAPTURE_THREAD_LOCAL = 1  # other threads of the process may go on using CUDA during the capture
ALIGNMENT = 256

_logger = logging.getLogger(__name__)


class Driver:
    """The loaded and initialised driver. Raises RuntimeUnavailable where there is none, or no GPU."""

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as err:
            raise RuntimeUnavailable(
                f"no CUDA driver: {err}. Install the NVIDIA driver (in a container: start it with the "
                "NVIDIA runtime), or take another runtime"
            ) from err
        self._functions: dict[str, Any] = {}
        for name, arguments in PROTOTYPES.items():
            try:
                function = getattr(self._library, name)
            except AttributeError as err:
                raise RuntimeUnavailable(
                    f"the CUDA driver has no {name}: it is older than 11.4. Update the NVIDIA driver"
                ) from err
            function.argtypes, function.restype = arguments, c_int
            self._functions[name] = function
        status = self.status("cuInit", 0)
        if status != 0:
            raise RuntimeUnavailable(
                f"CUDA finds no GPU that it can use: cuInit: {self._describe(status)}. Check "
                "with nvidia-smi (Jetson: tegrastats), look at CUDA_VISIBLE_DEVICES, or take another runtime"
            )
        self.device_count: int = self.create("cuDeviceGetCount", c_int).value

    def status(self, name: str, *arguments: Any) -> int:
        """Call one function; returns its CUresult, 0 for success."""
        return int(self._functions[name](*arguments))

    def call(self, name: str, *arguments: Any) -> None:
        """Call one function. Raises RuntimeUnavailable with CUDA's own words if it fails."""
        status = self.status(name, *arguments)
        if status != 0:
            raise RuntimeUnavailable(f"CUDA: {name} failed: {self._describe(status)}")

    def release(self, name: str, *arguments: Any) -> None:
        """Call a function that frees something; a failure is logged, so that the rest is freed too."""
        status = self.status(name, *arguments)
        if status != 0:
            _logger.warning("CUDA: %s failed: %s", name, self._describe(status))

    def create(self, name: str, kind: Callable[[], Any], *arguments: Any) -> Any:
        """Call a function whose first argument receives its result; returns the result."""
        result = kind()
        self.call(name, ctypes.byref(result), *arguments)
        return result

    def _describe(self, status: int) -> str:
        words = []
        for function in ("cuGetErrorName", "cuGetErrorString"):
            text = c_char_p()
            if self.status(function, status, ctypes.byref(text)) == 0 and text.value:
                words.append(text.value.decode())
        return f"{': '.join(words) or 'unknown error'} ({status})"


class Device:
    """One GPU with its primary context, which it shares with TensorRT. `close` gives it back.

    name: "NVIDIA Orin". compute_capability: "8.7".
    Raises ConfigError if there are not so many GPUs.
    """

    def __init__(self, driver: Driver, index: int) -> None:
        if index >= driver.device_count:
            raise ConfigError(
                f"device_id {index} was asked for; CUDA shows {driver.device_count} GPU on this machine, "
                "counted from 0. Set device_id to one of them"
            )
        self.driver = driver
        self._handle = driver.create("cuDeviceGet", c_int, index)
        text = ctypes.create_string_buffer(256)
        driver.call("cuDeviceGetName", text, len(text), self._handle)
        self.name = text.value.decode(errors="replace")
        major, minor = (
            driver.create("cuDeviceGetAttribute", c_int, which, self._handle).value
            for which in (COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR)
        )
        self.compute_capability = f"{major}.{minor}"
        self._context = driver.create("cuDevicePrimaryCtxRetain", c_void_p, self._handle)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Inside, this GPU is the current one of the calling thread."""
        self.driver.call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self.driver.release("cuCtxPopCurrent_v2", ctypes.byref(c_void_p()))

    def close(self) -> None:
        """Give the primary context back. The device cannot be used afterwards."""
        self.driver.release("cuDevicePrimaryCtxRelease_v2", self._handle)


class Buffers:
    """One host and one device buffer a tensor, and the stream that copies between them.

    arrays: name -> numpy array in page-locked host memory; addresses: name -> device address.
    The host memory belongs to numpy: arrays that outlive `close` stay readable.
    Use inside `Device.current`.
    """

    def __init__(self, driver: Driver, specs: Sequence[TensorSpec]) -> None:
        self.driver = driver
        self.arrays: dict[str, NDArray[Any]] = {}
        self.addresses: dict[str, int] = {}
        sizes = {spec.name: int(np.prod(spec.shape)) * spec.dtype.itemsize for spec in specs}
        # one block of whole pages: two registrations must not share a page
        length = sum(round_up(size) for size in sizes.values())
        block = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        offset = 0
        for spec in specs:
            count = int(np.prod(spec.shape))
            self.arrays[spec.name] = np.frombuffer(block, spec.dtype, count, offset).reshape(spec.shape)
            offset += round_up(sizes[spec.name])
        with ExitStack() as undo:
            self._register(np.frombuffer(block, np.uint8), undo)
            for name, size in sizes.items():
                address = driver.create("cuMemAlloc_v2", c_uint64, size).value
                undo.callback(driver.release, "cuMemFree_v2", address)
                self.addresses[name] = address
            self.stream: int = driver.create("cuStreamCreate", c_void_p, STREAM_NON_BLOCKING).value
            undo.callback(driver.release, "cuStreamDestroy_v2", self.stream)
            self._undo = undo.pop_all()

    def _register(self, block: NDArray[np.uint8], undo: ExitStack) -> None:
        host = block.ctypes.data
        try:
            self.driver.call("cuMemHostRegister_v2", host, block.nbytes, 0)
        except RuntimeUnavailable as err:  # slower copies, same results
            _logger.warning("the frame buffers could not be page-locked: %s", err)
        else:
            undo.callback(self.driver.release, "cuMemHostUnregister", host)

    def upload(self, name: str) -> None:
        """Queue the copy of one tensor to the GPU."""
        array = self.arrays[name]
        self.driver.call(
            "cuMemcpyHtoDAsync_v2", self.addresses[name], array.ctypes.data, array.nbytes, self.stream
        )

    def download(self, name: str) -> None:
        """Queue the copy of one tensor from the GPU."""
        array = self.arrays[name]
        self.driver.call(
            "cuMemcpyDtoHAsync_v2", array.ctypes.data, self.addresses[name], array.nbytes, self.stream
        )

    def synchronize(self) -> None:
        """Wait until everything queued is done. Other Python threads run meanwhile."""
        self.driver.call("cuStreamSynchronize", self.stream)

    def close(self) -> None:
        """Free the device memory and the stream."""
        self._undo.close()


class CudaGraph:
    """Work queued on a stream once, replayed by one call. Raises what `queue` or CUDA raises."""

    def __init__(self, driver: Driver, stream: int, queue: Callable[[], None]) -> None:
        self._driver = driver
        self._stream = stream
        driver.call("cuStreamBeginCapture_v2", stream, CAPTURE_THREAD_LOCAL)
        graph = c_void_p()
        try:
            queue()
        except BaseException:  # the stream must leave capture mode, or it is lost for eager use
            if driver.status("cuStreamEndCapture", stream, ctypes.byref(graph)) == 0 and graph:
                driver.release("cuGraphDestroy", graph)
            raise
        driver.call("cuStreamEndCapture", stream, ctypes.byref(graph))
        try:
            self._executable = driver.create("cuGraphInstantiateWithFlags", c_void_p, graph, 0)
        finally:
            driver.release("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Queue one replay."""
        self._driver.call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Free the graph."""
        self._driver.release("cuGraphExecDestroy", self._executable)


def round_up(size: int) -> int:
    """`size` rounded up to ALIGNMENT bytes."""
    return -(-size // ALIGNMENT) * ALIGNMENT
