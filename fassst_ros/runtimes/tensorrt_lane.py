"""Frames on their way through the GPU: each copied in, executed, copied out, as one CUDA graph."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fassst_ros.runtimes.base import Log, TensorSpec
from fassst_ros.runtimes.cuda_driver import Buffers, CudaGraph, Driver
from fassst_ros.types import RuntimeUnavailable


class Lane:
    """An execution context with buffers, stream and CUDA graph of its own. Use inside `Device.current`.

    Lanes of one engine can be used by different threads at once: then the GPU copies the frame of one while
    it computes that of another. `lock`: hold it around `run`.
    inputs: name -> page-locked array; frames written there are not copied again.
    is_graph: whether a frame is one CUDA graph, or is queued step by step.
    """

    def __init__(
        self,
        driver: Driver,
        context: Any,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        reason: Callable[[], str],
        log: Log,
    ) -> None:
        """context: a trt.IExecutionContext. reason: TensorRT's own words on the last failure.

        Raises RuntimeUnavailable if memory is short or the engine cannot be executed.
        """
        self.lock = threading.Lock()
        self._reason = reason
        self._output_names = [spec.name for spec in outputs]
        with ExitStack() as undo:
            self._context = context
            undo.callback(setattr, self, "_context", None)  # frees it, while the GPU is current
            self._buffers = Buffers(driver, (*inputs, *outputs))
            undo.callback(self._buffers.close)
            self.inputs = {spec.name: self._buffers.arrays[spec.name] for spec in inputs}
            for spec in inputs:
                self._check(self._context.set_input_shape(spec.name, spec.shape), f"shape of {spec}")
            for name, address in self._buffers.addresses.items():
                self._check(self._context.set_tensor_address(name, address), f"memory of {name}")
            self._queue()  # TensorRT finishes its set-up in the first run, which a graph could not hold
            self._buffers.synchronize()
            self._graph = self._capture(driver, log)
            if self._graph is not None:
                undo.callback(self._graph.close)
            self._undo = undo.pop_all()

    @property
    def is_graph(self) -> bool:
        return self._graph is not None

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Execute; returns the page-locked arrays of the outputs, valid until the next `run`."""
        for name, array in feeds.items():
            if array is not self.inputs[name]:
                np.copyto(self.inputs[name], array)
        if self._graph is not None:
            self._graph.launch()
        else:
            self._queue()
        self._buffers.synchronize()
        return {name: self._buffers.arrays[name] for name in self._output_names}

    def close(self) -> None:
        """Free all but the host arrays, which stay readable."""
        self._undo.close()

    def _queue(self) -> None:
        """Queue one frame: copy in, execute, copy out."""
        for name in self.inputs:
            self._buffers.upload(name)
        self._check(self._context.execute_async_v3(self._buffers.stream), "engine")
        for name in self._output_names:
            self._buffers.download(name)

    def _capture(self, driver: Driver, log: Log) -> CudaGraph | None:
        """The frame as a CUDA graph, or None where that is not possible (which is logged)."""
        with ExitStack() as undo:
            try:
                graph = CudaGraph(driver, self._buffers.stream, self._queue)
                undo.callback(graph.close)
                graph.launch()
                self._buffers.synchronize()
            except RuntimeUnavailable as err:
                log(f"no CUDA graph, each frame is queued step by step (slower): {err}")
                return None
            undo.pop_all()
        return graph

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise RuntimeUnavailable(f"TensorRT could not execute the engine ({what}): {self._reason()}")


class Lanes:
    """The lanes of one engine: one is opened at once, more when they are asked for. Use as `Lane`."""

    def __init__(self, open_lane: Callable[[], Lane]) -> None:
        self._open_lane = open_lane
        self._lock = threading.Lock()  # around the three below
        self._all = [open_lane()]
        self._unused = list(self._all)
        self._copying: Lane | None = None  # of frames that lie elsewhere
        self.are_graphs = self._all[0].is_graph

    def lend(self) -> dict[str, NDArray[Any]]:
        """The inputs of a lane that nobody else uses."""
        with self._lock:
            return dict(self._take().inputs)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Execute in the lane that `feeds` were lent from; others are copied into a lane of their own."""
        lane = self._lane_of(feeds)
        with lane.lock:
            return lane.run(feeds)

    def close(self) -> None:
        """Free all lanes."""
        for lane in self._all:
            lane.close()

    def _lane_of(self, feeds: Mapping[str, NDArray[Any]]) -> Lane:
        with self._lock:
            for lane in self._all:
                if all(array is lane.inputs[name] for name, array in feeds.items()):
                    return lane
            if self._copying is None:
                self._copying = self._take()
            return self._copying

    def _take(self) -> Lane:
        if not self._unused:
            self._all.append(self._open_lane())
            return self._all[-1]
        return self._unused.pop()
