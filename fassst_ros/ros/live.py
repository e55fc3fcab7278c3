"""Live replay: measures a running segmentation node with the images of a bag, and writes a report.

    python -m fassst_ros.ros.live BAG --node /segment_node --topic /camera/image_raw --out DIR

Brings the node to active, plays the bag once as it was recorded, then frames from memory at fixed rates, and
searches the highest rate with less than 5 % missing frames (fassst_ros/replay/rates.py). The player is a
process of its own; this one subscribes to the node's results, stage times and diagnostics. In DIR there are
afterwards replay.json, index.html and the results as a bag. SIGINT or SIGTERM ends it early: what was
measured until then is kept. Exit status: 0 done, 1 failed, 2 wrong usage, 130 ended early.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rcl_interfaces.srv import GetParameters

from fassst_ros.bag import ImageBag
from fassst_ros.card import ModelCard, load_card
from fassst_ros.models import resolve_model
from fassst_ros.processes import Family
from fassst_ros.replay.folder import RESULTS, RunFolder
from fassst_ros.replay.rates import RateRecord, highest_rate, rate_columns
from fassst_ros.replay.results import ResultBag
from fassst_ros.replay.truth import usable_truth
from fassst_ros.ros.cameras import make_cameras
from fassst_ros.ros.live_passes import Passes, RecordedPass
from fassst_ros.ros.live_record import Measured
from fassst_ros.ros.live_report import can_draw, write
from fassst_ros.ros.process import process, spin_until
from fassst_ros.ros.receive import activate, call
from fassst_ros.ros.replay import positive
from fassst_ros.types import FassstError, InputError

#: Folder of the player's log.
LOGS = "logs"
#: What the node does on its way to active.
STEPS = {
    "configure": "loading and warming up the model",
    "activate": "activating the node",
    "active": "connecting",
}
#: How long an active node may take to be heard, in seconds.
CONNECTED = 30.0
#: Rate of the frames that connect and warm up everything, in Hz.
TRIAL = 20.0
#: Rates at which the latency is measured, in Hz.
RATES = (10.0, 20.0, 30.0)


class Speaker:
    """Tells the user how far it is: lines of text, or of JSON for a program that shows them."""

    def __init__(self, events: bool) -> None:
        self._events, self._printed = events, 0.0

    def say(self, text: str) -> None:
        """What happens now."""
        self._tell("progress", text)

    def frames(self, sent: int, segmented: int, expected: int) -> None:
        """How far the recorded pass is; at most once a second."""
        if sent == expected or time.monotonic() - self._printed > 1:
            self._printed = time.monotonic()
            text = f"{sent} of {expected} frames sent, {segmented} segmented"
            self._tell("progress", text)

    def rate(self, record: RateRecord) -> None:
        """One finished pass at a fixed rate."""
        columns = rate_columns(record)
        latency = ", ".join(f"{key} {columns[key]} ms" for key in ("p50", "p90", "p99"))
        text = f"{columns['Hz']} Hz: {columns['outcome']}, {columns['missing']} missing, {latency}"
        self._tell("rate", text, columns=columns)

    def result(self, text: str) -> None:
        """What came out of it, or where it lies."""
        self._tell("result", text)

    def _tell(self, event: str, text: str, **values: Any) -> None:
        print(json.dumps({"event": event, "text": text, **values}) if self._events else text, flush=True)


def measure(options: argparse.Namespace, bag: ImageBag, speaker: Speaker, done: Measured) -> None:
    """Fill `done` pass by pass. Raises FassstError for what fails; what was measured before stays in it."""
    cameras = make_cameras(options.topic)
    prefixes = [f"{options.node}/{camera.name}".rstrip("/") for camera in cameras]
    with Family(dict(os.environ), options.out / LOGS, server="player") as family:
        topics = [item for topic in options.topic for item in ("--topic", topic)]
        family.start(
            *("player", "fassst_ros.ros.live_player", str(options.bag), "--bag-topic", options.bag_topic),
            *topics,
            *(["--compressed"] if options.compressed else []),
        )
        with process("live_replay") as node:
            passes = Passes(node, options.node, prefixes, family, options.seconds)
            activate(node, options.node, options.timeout, lambda step: speaker.say(STEPS[step]))
            if not spin_until(node, passes.connected, CONNECTED):
                raise InputError(f"{options.node} does not publish {', '.join(passes.topics)}")
            done.topic, done.facts = passes.topics[0], dict(passes.reports.facts)
            done.facts["passes"] = f"{options.seconds:g} s each, cameras: {len(cameras)}"
            done.colors, done.threshold = dict(passes.reports.colors), passes.reports.threshold
            done.card = find_card(node, options.node)
            _play(options, bag.count, passes, speaker, done)


def find_card(node: Any, target: str) -> ModelCard | None:
    """The card of the node's model, None if it is not on this machine."""
    try:
        request = GetParameters.Request(names=["model"])
        answer = call(node, GetParameters, f"{target}/get_parameters", request, CONNECTED)
        return load_card(resolve_model(answer.values[0].string_value))
    except FassstError:
        return None


def _play(options: argparse.Namespace, count: int, passes: Passes, speaker: Speaker, done: Measured) -> None:
    speaker.say("trial: a few frames, which do not count")
    passes.at_rate(TRIAL, "trial", 0.0)
    if options.recorded:
        speaker.say("playing the bag as it was recorded")
        bag = ResultBag(options.out / RESULTS, passes.topics[:1])
        try:
            done.recorded = RecordedPass(bag, passes.topics[0])
            passes.recorded(done.recorded, lambda sent, got: speaker.frames(sent, got, count))
        finally:
            bag.close()
        if not done.recorded.latency_ms:
            raise InputError(_why_nothing(passes, done.recorded))

    def at_rate(rate: float, kind: str, times: float) -> RateRecord:
        speaker.say(f"playing at {rate:g} Hz ({kind})")
        record = passes.at_rate(rate, kind, times)
        done.rates.append(record)
        speaker.rate(record)
        return record

    for rate in sorted(options.rates):
        at_rate(rate, "fixed", 1.0)
    if options.search:
        done.highest = highest_rate(at_rate, done.rates, highest=options.max_rate)
        speaker.say(f"highest rate with less than 5 % missing frames: {done.highest}")


def _why_nothing(passes: Passes, found: RecordedPass) -> str:
    said = "; ".join(f"{part}: {text}" for part, text in passes.reports.texts.items())
    counted = ", ".join(f"{name} {count}" for name, count in found.counters.items())
    return (
        f"no frame was segmented: {len(found.sent)} were published, {len(found.skipped)} are damaged. "
        f"The node counted: {counted or 'nothing'}. It says: {said or 'nothing'}"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is to be played, and how; scripts/replay.py has the same options."""
    parser.add_argument("bag", type=Path, help="folder of the bag, or an mcap file")
    parser.add_argument("--bag-topic", default="", help="image topic in the bag, if it has several")
    parser.add_argument(
        "--out", type=Path, default=Path("out/live"), help="folder for the report (%(default)s)"
    )
    parser.add_argument(
        "--rates",
        type=_rates,
        default=RATES,
        metavar="HZ,HZ",
        help="fixed rates for the latency (10,20,30); an empty one: none",
    )
    parser.add_argument("--seconds", type=positive, default=5.0, help="time of a pass (%(default)s)")
    parser.add_argument("--max-rate", type=positive, default=240.0, help="highest rate tried (%(default)s)")
    parser.add_argument(
        "--search", action=argparse.BooleanOptionalAction, default=True, help="search the highest rate"
    )
    parser.add_argument(
        "--recorded", action=argparse.BooleanOptionalAction, default=True, help="first play it as recorded"
    )
    parser.add_argument("--compressed", action="store_true", help="publish JPEGs as recorded, not decoded")
    parser.add_argument(
        "--ground-truth",
        default="",
        metavar="FILE",
        help="COCO file with stamps, InstanceArray topic of the bag, or none (BAG/ground_truth.json)",
    )
    parser.add_argument(
        "--timeout", type=positive, default=300.0, help="for loading the model, in seconds (%(default)s)"
    )


def forwarded(options: argparse.Namespace) -> list[str]:
    """The options of `add_arguments` as a command line, without the bag."""
    given = {
        "--bag-topic": options.bag_topic,
        "--out": options.out,
        "--rates": ",".join(f"{rate:g}" for rate in options.rates),
        "--seconds": options.seconds,
        "--max-rate": options.max_rate,
        "--ground-truth": options.ground_truth,
        "--timeout": options.timeout,
    }
    flags = ["--search" if options.search else "--no-search"]
    flags += ["--recorded" if options.recorded else "--no-recorded"]
    flags += ["--compressed"] if options.compressed else []
    return [*(str(item) for pair in given.items() for item in pair), *flags]


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(positive(part) for part in text.split(",") if part.strip())
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"{text!r}; expected numbers, as in 10,20,30") from err


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. Exits with status 2 if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="live", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--node", required=True, help="full name of the segmentation node")
    parser.add_argument(
        "--topic",
        action="append",
        required=True,
        help="camera topic of the node; repeatable, as image_topics",
    )
    parser.add_argument("--events", action="store_true", help="tell the progress as JSON, one object a line")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    """Measure and write. Returns the exit status; raises FassstError, after what was measured is written."""
    speaker, done = Speaker(options.events), Measured()
    with ImageBag(options.bag, options.bag_topic) as bag:
        if bag.bag.damage:
            done.notes.append(bag.bag.damage)
        truth = usable_truth(bag.bag, options.ground_truth, [bag.topic], done.notes)
        page = can_draw(speaker.result)
        folder = RunFolder(options.out)
        try:
            (options.out / LOGS).mkdir(exist_ok=True)
            measure(options, bag, speaker, done)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # launch repeats it; what was measured is kept
            done.interrupted = True
            done.notes.append("ended early by a signal; what was measured until then is here")
        except FassstError as err:
            done.notes.append(f"ended early: {err}")
            raise
        finally:
            folder.release()
            if done.rates or (done.recorded is not None and done.recorded.sent):
                speaker.say("writing the report")
                write(bag, truth, folder, done, page, speaker.result)
    return 130 if done.interrupted else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        return run(options)
    except FassstError as err:
        print(f"live: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
