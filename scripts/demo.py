#!/usr/bin/env python3
"""Demo: real street frames through the lifecycle node, as on a robot (`make run`).

Three processes talk over DDS: the segmentation node, a bag player that acts as the camera
(2048x1024 at 10 Hz) and a receiver of InstanceArray. Pictures, summary.json, the results as a bag and
the processes' logs are in out/ afterwards. Exit status 0: frames were segmented and instances found.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

from demo_report import Tally, read_results, summary, write_overlays, write_summary
from screen import Screen

from fassst_ros.bag import ImageBag
from fassst_ros.card import load_card
from fassst_ros.models import resolve_model
from fassst_ros.processes import (
    Family,
    ProcessError,
    environment,
    free_domain,
    leave_at_signals,
    prepare_folder,
)
from fassst_ros.types import FassstError

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "test/data/street_sample"
PROFILE = ROOT / "config/fastdds_large_images.xml"
NODE, CAMERA = "segment", "/camera/image_raw"
#: After the last frame was sent, results are awaited until none has come for so long, in seconds.
QUIET = 5.0


def wait_until_ready(family: Family, tally: Tally, screen: Screen) -> None:
    """Until the node is active and the receiver hears it. Raises ProcessError if a process fails."""
    screen.progress("starting the node")
    words = {
        "configure": "loading and warming up the model",
        "activate": "activating",
        "active": "connecting",
    }
    while True:
        item = family.next_event(0.1)
        if item is None:
            continue
        event = item[1]
        tally.add(event)
        if event["event"] == "ready":
            return
        if event["event"] == "state":
            screen.progress(words[event["state"]])


def watch(family: Family, tally: Tally, screen: Screen) -> None:
    """Until the bag has been played and the results are in. Raises ProcessError if a process fails."""
    player = family.children["replay"].process
    heard = time.monotonic()
    while True:
        item = family.next_event(0.1)
        if item is not None:
            tally.add(item[1])
            if item[1]["event"] in ("published", "instances"):
                heard = time.monotonic()
            if item[1]["event"] in ("skipped", "warning"):
                print(f"replay: {item[1]['reason']}", file=sys.stderr)
        if tally.published:
            screen.show(tally)
        else:
            screen.progress("starting the bag player")
        if item is None and player.poll() is not None:
            silent = time.monotonic() - heard
            if (tally.complete and tally.counted_by_node()) or silent > QUIET:
                return


def play(options: argparse.Namespace, model: Path, logs: Path, tally: Tally) -> None:
    """Run the three processes over the bag; fills `tally` and out/results."""
    domain = options.domain or free_domain()
    print(f"ROS_DOMAIN_ID={domain} (to listen from another terminal), logs in {logs}", flush=True)
    if options.view is not None:
        print(f"page: http://127.0.0.1:{options.view}/ (until the bag ends, or Ctrl-C)", flush=True)
    with Screen() as screen, Family(environment(PROFILE, logs, domain), logs) as family:
        family.start(
            *("node", "fassst_ros.ros.node", "--ros-args", "-r", f"__node:={NODE}", "-r", f"image:={CAMERA}"),
            *("-p", f"model:={model}", "-p", f"runtime:={options.runtime}"),
            *("-p", f"track:={'true' if options.view is not None else 'false'}"),
        )
        family.start(
            *("receive", "fassst_ros.ros.receive", "--node", f"/{NODE}", "--activate"),
            *("--bag", str(options.out / "results")),
        )
        if options.view is not None:
            family.start("view", "fassst_ros.ros.view", "--node", f"/{NODE}", "--port", str(options.view))
        wait_until_ready(family, tally, screen)
        family.start(
            *("replay", "fassst_ros.ros.replay", str(options.bag), "--bag-topic", options.bag_topic),
            *("--topic", CAMERA, "--rate", str(options.rate), "--loop", str(options.loop)),
            *("--wait-subscribers", "1", "--events"),
        )
        watch(family, tally, screen)
        family.check()
        screen.show(tally, final=True)
        family.end("receive")  # completes the bag of results


def report(options: argparse.Namespace, tally: Tally, card: Any) -> int:
    """Write pictures and summary, say where they are; returns the exit status."""
    results = read_results(options.out / "results")
    strangers = set(results) - set(tally.published)
    if strangers:
        raise ProcessError(
            f"{len(strangers)} results for frames that were not published: stamps do not match"
        )
    files = write_overlays(
        options.bag, options.bag_topic, tally.published, results, card, options.out, options.pictures
    )
    values = summary(tally, results, card, options.runtime, options.bag)
    write_summary(values, options.out / "summary.json")
    found = ", ".join(f"{count} {name}" for name, count in values["instances_by_class"].items())
    print(
        f"{values['frames_segmented']} of {values['frames_published']} frames segmented, "
        f"{values['instances_total']} instances ({found or 'none'})"
    )
    print(f"summary: {options.out / 'summary.json'}\nresults: {options.out / 'results'} (a bag)")
    if files:
        print(f"pictures: {files[0]} ... {files[-1].name} ({len(files)}); open them with any image viewer")
    if not values["frames_segmented"]:
        raise ProcessError(f"no frame was segmented; see the logs in {options.out / 'logs'}")
    if not values["instances_total"]:
        raise ProcessError(
            f"no instance in {len(results)} frames: model {values['model']} finds nothing in this bag"
        )
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bag", type=Path, default=SAMPLE, help="bag of camera images (the sample bag)")
    parser.add_argument("--bag-topic", default="", help="image topic in the bag, if it has several")
    parser.add_argument(
        "--model", default="", help="model file, or name of a shipped model (the default one)"
    )
    parser.add_argument(
        "--runtime", default="auto", help="auto, openvino, onnxruntime, tensorrt (%(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "out", help="folder for what the demo makes (out/)"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="times the recorded speed (%(default)s)")
    parser.add_argument("--loop", type=int, help="passes over the bag (1; with --view 60)")
    parser.add_argument(
        "--view",
        type=int,
        nargs="?",
        const=8090,
        metavar="PORT",
        help="serve a page for the browser meanwhile: http://127.0.0.1:PORT/ (%(const)s); with tracking",
    )
    parser.add_argument("--pictures", type=int, default=16, help="number of overlay pictures (%(default)s)")
    parser.add_argument("--domain", type=int, default=0, help="ROS_DOMAIN_ID (a free one)")
    options = parser.parse_args()
    if options.loop is None:
        options.loop = 1 if options.view is None else 60
    if not 0 < options.rate < math.inf or options.loop < 1 or options.pictures < 0:
        parser.error("--rate must be a finite number above 0, --loop 1 or more, --pictures 0 or more")
    if options.view is not None and not 1 <= options.view <= 65535:
        parser.error(f"--view {options.view}: expected a TCP port, 1 to 65535")
    if not 0 <= options.domain <= 232:
        parser.error(f"--domain is {options.domain}; expected 1 to 232, or 0 for a free one")
    return options


def main() -> int:
    """Returns the exit status."""
    options = parse()
    leave_at_signals()
    try:
        model = resolve_model(options.model)
        card = load_card(model)
        with ImageBag(options.bag, options.bag_topic) as bag:
            tally = Tally(bag.count * options.loop)
        logs = prepare_folder(options.out, ("overlay_*.jpg", "summary.json"))
        play(options, model, logs, tally)
        return report(options, tally, card)
    except FassstError as err:
        print(f"demo: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; all processes have ended", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
