"""The thread that segments: it takes the newest frames, camera by camera, and publishes."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.clock import Clock
from rclpy.context import Context

from fassst_ros.pipeline import Segmenter
from fassst_ros.ros.cameras import Arrival, Camera, Mailbox
from fassst_ros.ros.convert import to_frame
from fassst_ros.ros.outputs import Outputs
from fassst_ros.ros.params import Settings
from fassst_ros.tracking import segment_tracked
from fassst_ros.types import FassstError

#: Least time between two warnings of the same kind, in seconds.
QUIET = 5.0


class Worker:
    """Runs from `start` to `stop`. An error costs the frame that it came with, never the thread.

    One thread for all cameras: one engine segments one frame at a time anyway, and the executor's
    thread stays free for services and for taking newer frames.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        cameras: Sequence[Camera],
        outputs: Sequence[Outputs],
        segmenter: Segmenter,
        settings: Callable[[], Settings],
        clock: Clock,
        context: Context,
        logger: Any,
    ) -> None:
        self._mailbox = mailbox
        self._cameras, self._outputs = cameras, outputs
        self._segmenter = segmenter
        self._settings = settings
        self._clock, self._context, self._logger = clock, context, logger
        self._thread = threading.Thread(target=self._run, name="segment", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """End after the frame in progress; False if it still runs after `timeout` seconds."""
        self._mailbox.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (taken := self._mailbox.take()) is not None:
            index, arrival = taken
            camera = self._cameras[index]
            try:
                self._process(camera, self._outputs[index], arrival)
            except FassstError as err:
                self._fail(camera, str(err))
            except Exception as err:
                if not self._context.ok():  # the process ends: publishers are gone
                    return
                self._fail(camera, _describe(err))

    def _fail(self, camera: Camera, reason: str) -> None:
        camera.counters.failed += 1
        camera.error = reason
        self._logger.warning(f"{camera.topic}: frame skipped: {reason}", throttle_duration_sec=QUIET)

    def _process(self, camera: Camera, outputs: Outputs, arrival: Arrival) -> None:
        header = arrival.message.header
        stamp = header.stamp.sec * 10**9 + header.stamp.nanosec
        settings = self._settings()
        options, camera.tracker.options = settings.node, settings.track
        started = time.perf_counter()
        if stamp and options.max_age and self._is_stale(camera, stamp, options.max_age):
            return
        frame = to_frame(arrival.message)
        decoded = time.perf_counter()
        result = segment_tracked(self._segmenter, camera.tracker, frame, (stamp or arrival.clock) / 1e9)
        published = outputs.publish_instances(result.instances, header)
        done, clock = time.perf_counter(), self._clock.now().nanoseconds
        camera.counters.segmented += 1
        camera.error = ""
        try:
            outputs.publish_extras(result.instances, frame, header, options)
        except Exception as err:  # the frame is segmented and published already
            camera.error = f"maps, overlay or markers: {_describe(err)}"
            self._logger.warning(f"{camera.topic}: {camera.error}", throttle_duration_sec=QUIET)
        stages = {
            "wait": (started - arrival.time) * 1e3,
            "decode": (decoded - started) * 1e3,
            **result.stages,
            **published,
            "extras": (time.perf_counter() - done) * 1e3,
            "processing": (done - arrival.time) * 1e3,
        }
        if stamp:  # a stamp of zero says nothing about when the image was taken
            stages |= {"transport": (arrival.clock - stamp) / 1e6, "total": (clock - stamp) / 1e6}
        camera.record(stages)
        outputs.publish_latency(stages)

    def _is_stale(self, camera: Camera, stamp: int, limit: float) -> bool:
        age = (self._clock.now().nanoseconds - stamp) / 1e9
        if age <= limit:
            return False
        camera.counters.stale += 1
        self._logger.warning(
            f"{camera.topic}: frame is {age:.3f} s old, max_age is {limit} s: dropped. If it is from a bag, "
            "play it with --clock and set use_sim_time; else synchronise the clocks, or raise max_age",
            throttle_duration_sec=QUIET,
        )
        return True


def _describe(err: Exception) -> str:
    """An unexpected error with the place where it came up."""
    where = traceback.extract_tb(err.__traceback__)[-1]
    return f"{type(err).__name__}: {err} ({where.filename}:{where.lineno})"
