"""The lifecycle node: camera images in, instances out.

Every callback runs in the executor's thread (SingleThreadedExecutor) and is short; decoding,
inference and publishing run in one worker thread, which exists only in the active state. So
services answer at once under any load, and entities are created and destroyed by one thread.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # Humble has it nowhere else
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import try_shutdown
from std_msgs.msg import Header

from fassst_ros.msg import LabelInfo
from fassst_ros.pipeline import Segmenter, check_options
from fassst_ros.ros import messages, qos
from fassst_ros.ros.cameras import Camera, Mailbox, make_cameras
from fassst_ros.ros.diagnostics import Diagnostics
from fassst_ros.ros.executor import Signals, spin_until_signal
from fassst_ros.ros.inputs import Input
from fassst_ros.ros.outputs import Outputs
from fassst_ros.ros.params import Parameters, Settings
from fassst_ros.ros.worker import Worker
from fassst_ros.tracking import check_track
from fassst_ros.types import FassstError

#: How long deactivate waits for the frame in progress, in seconds.
DRAIN_TIMEOUT = 10.0


class SegmentNode(LifecycleNode):
    """Instance segmentation of camera images.

    configure: read parameters, load the model, warm up, create publishers. activate: subscribe.
    deactivate: unsubscribe, finish the frame in progress. cleanup, shutdown and error: free all.
    A transition that fails logs cause and mend, undoes what it had done and returns FAILURE, so it
    can be tried again. Raises ConfigError if a parameter has a wrong value at the start.
    """

    def __init__(self, name: str = "segment_node", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._segmenter: Segmenter | None = None
        self._cameras: list[Camera] = []
        self._outputs: list[Outputs] = []
        self._labels: Any = None
        self._told_score = 0.0  # in the last LabelInfo
        self._inputs: list[Input] = []
        self._worker: Worker | None = None
        self._diagnostics = Diagnostics(self)
        self._checked = Parameters(self, lambda: self._segmenter is not None, self._check, self._apply)
        # Reports and supervision must go on when simulated time stands still.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        period = self.settings.node.diagnostics_period
        self._reporter = self.create_timer(period, self._diagnostics.publish, clock=self._steady)
        self._watcher = self.create_timer(1.0, self._watch, clock=self._steady)
        if self.settings.node.autostart:
            self._starter = self.create_timer(0.0, self._start, clock=self._steady)
        else:
            name = self.get_fully_qualified_name()
            self.get_logger().info(
                f"unconfigured. Next: `ros2 lifecycle set {name} configure`, then `activate`; or start with "
                "the parameter autostart"
            )

    @property
    def settings(self) -> Settings:
        """The parameters in force."""
        return self._checked.current

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and warm up the model, create the publishers."""
        self._report("configuring")
        return self._transition("configure", self._configure, self._free, "inactive", "unconfigured")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Enable the publishers, start the worker, subscribe."""

        def activate() -> None:
            super(SegmentNode, self).on_activate(state)
            self._subscribe()

        def undo() -> None:
            self._unsubscribe()
            super(SegmentNode, self).on_deactivate(state)

        return self._transition("activate", activate, undo, "active", "inactive")

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, let the worker finish its frame, disable the publishers."""

        def deactivate() -> None:
            self._unsubscribe()
            super(SegmentNode, self).on_deactivate(state)

        return self._transition("deactivate", deactivate, lambda: None, "inactive", "active")

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and the publishers."""
        return self._transition("cleanup", self._free, lambda: None, "unconfigured", "inactive")

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The same from any state; the node is finalized then."""
        return self._transition("shutdown", self._free, lambda: None, "finalized", "finalized")

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything; the node can be configured again."""
        return self._transition("error processing", self._free, lambda: None, "unconfigured", "finalized")

    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> TransitionCallbackReturn:
        # Up to Jazzy a transition that the present state does not have raises in the service's
        # callback: the caller would never get an answer. Later rclpy catches it at this place.
        result: TransitionCallbackReturn
        try:
            result = super()._LifecycleNodeMixin__change_state(transition_id)  # type: ignore[misc]
            return result
        except RuntimeError as err:
            self.get_logger().error(f"transition {transition_id} is not possible now: {err}")
            return TransitionCallbackReturn.ERROR

    def _transition(
        self,
        name: str,
        action: Callable[[], None],
        undo: Callable[[], None],
        reached: str,
        kept: str,
    ) -> TransitionCallbackReturn:
        """Run `action`; on any error log it, undo it and say FAILURE. rclpy would swallow the error."""
        logger = self.get_logger()
        try:
            action()
        except Exception as err:
            problem = str(err) if isinstance(err, FassstError) else f"{type(err).__name__}: {err}"
            logger.error(f"{name} failed: {problem}")
            if not isinstance(err, FassstError):
                logger.error(traceback.format_exc())
            try:
                undo()
            except Exception:
                logger.error(f"undoing {name} failed too:\n{traceback.format_exc()}")
            self._report(kept, f"{name} failed: {problem}")
            return TransitionCallbackReturn.FAILURE
        logger.info(f"{name} done: {reached}")
        self._report(reached)
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        settings = self.settings
        check_track(settings.track)
        cameras = make_cameras(settings.node.image_topics)
        for camera in cameras:
            self.resolve_topic_name(camera.topic)  # raises for a name that ROS does not allow
        segmenter = Segmenter.open(settings.runtime, settings.segment, self._log_model)
        self._segmenter = segmenter  # from here on _free knows it
        segmenter.warm_up()
        self._labels = self.create_lifecycle_publisher(LabelInfo, "~/label_info", qos.LATCHED)
        for camera in cameras:
            self._outputs.append(Outputs(self, camera.name, segmenter.card))
        self._cameras = cameras
        runtime = segmenter.runtime
        facts = {
            "model": messages.model_name(segmenter.card),
            "input": f"{segmenter.card.input_width}x{segmenter.card.input_height}",
            "runtime": runtime.name,
            "device": runtime.device,
            "precision": runtime.precision,
        }
        self._diagnostics.describe(cameras, facts)
        self.get_logger().info(", ".join(f"{k} {v}" for k, v in facts.items()))

    def _subscribe(self) -> None:
        assert self._segmenter is not None  # lifecycle: active follows inactive
        self._publish_labels()
        mailbox = Mailbox(self._cameras)
        clock, logger = self.get_clock(), self.get_logger()
        self._worker = Worker(
            *(mailbox, self._cameras, self._outputs, self._segmenter, lambda: self.settings),
            *(clock, self.context, logger),
        )
        self._worker.start()
        for index, (camera, outputs) in enumerate(zip(self._cameras, self._outputs, strict=True)):
            camera.arrival = 0.0
            camera.tracker.reset()
            self._inputs.append(Input(self, index, camera, mailbox, outputs, self._node_options))
            self._inputs[-1].open()

    def _unsubscribe(self) -> None:
        while self._inputs:
            self._inputs.pop().close()
        if self._worker is not None:
            if not self._worker.stop(DRAIN_TIMEOUT):
                raise RuntimeError(
                    f"a frame is in progress for more than {DRAIN_TIMEOUT:.0f} s: the runtime hangs. Try "
                    "again, or end the process"
                )
            self._worker = None

    def _free(self) -> None:
        self._unsubscribe()
        while self._outputs:
            self._outputs.pop().destroy()
        if self._labels is not None:
            self.destroy_lifecycle_publisher(self._labels)
            self._labels = None
        if self._segmenter is not None:
            self._segmenter.close()
            self._segmenter = None
        self._cameras = []
        self._diagnostics.describe((), {})

    # Parameters

    def _node_options(self) -> Any:
        return self.settings.node

    def _check(self, settings: Settings) -> None:
        """Raise ConfigError if the loaded model cannot take `settings`."""
        make_cameras(settings.node.image_topics)
        check_track(settings.track)
        if self._segmenter is not None:
            check_options(settings.segment, self._segmenter.card)

    def _apply(self, settings: Settings) -> None:
        period = int(settings.node.diagnostics_period * 1e9)
        if self._reporter.timer_period_ns != period:
            self._reporter.timer_period_ns = period
            self._reporter.reset()  # else it would first wait out the old period
        if self._segmenter is not None:
            self._segmenter.options = settings.segment
            if settings.least_score(self._segmenter.card) != self._told_score:
                self._publish_labels()

    # Reports

    def _publish_labels(self) -> None:
        if self._segmenter is not None and self._labels is not None:
            header = Header(stamp=self.get_clock().now().to_msg())
            card = self._segmenter.card
            self._told_score = self.settings.least_score(card)
            self._labels.publish(messages.label_info(card, self._told_score, header))

    def _report(self, state: str, problem: str = "") -> None:
        self._diagnostics.state, self._diagnostics.problem = state, problem
        self._diagnostics.publish()

    def _log_model(self, text: str) -> None:
        """What runtimes say; while a model is loading, /diagnostics shows it at once."""
        if self._worker is None:
            self.get_logger().info(text)
            self._diagnostics.describe((), {"loading": text})
            self._diagnostics.publish()
        else:
            self.get_logger().warning(text)

    def _watch(self) -> None:
        for source in self._inputs:
            source.watch()

    def _start(self) -> None:
        self._starter.cancel()
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    # End of the process

    def end(self) -> None:
        """Shut down from whatever state the node is in."""
        try:
            self.trigger_shutdown()
        except Exception:  # finalized already: rclpy has no shutdown from there
            self._free()


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM. Returns the exit status: 0, or 2 for a wrong parameter."""
    signals = Signals()  # rclpy's own handlers would end the context before the node could shut down
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = SegmentNode()
    except FassstError as err:
        print(f"segment_node: {err}", file=sys.stderr)
        try_shutdown()
        return 2
    spin_until_signal(node, node.end, signals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
