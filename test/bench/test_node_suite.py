"""The node suite of `fassst bench`: real processes, and what its tables say. Nothing depends on speed."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from tiny_model import make_tiny_model, tiny_card

from fassst_ros.bench import node, node_parts, node_session, node_tables
from fassst_ros.bench.node_session import Pass, Session, Setup
from fassst_ros.bench.report import Cell, Table
from fassst_ros.bench.scenes import bench_image
from fassst_ros.config import RuntimeOptions, SegmentOptions
from fassst_ros.processes import TRANSPORT
from fassst_ros.replay.rates import HighestRate, RateRecord
from fassst_ros.types import ConfigError, FassstError

needs_ros = pytest.mark.skipif(
    importlib.util.find_spec("rclpy") is None, reason="needs ROS 2 and the built messages"
)
BOXES = np.float32([[8, 6, 40, 30], [30, 20, 60, 46]])
RUNTIME = RuntimeOptions(runtime="onnxruntime", threads=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Finds two objects in any image that is not black."""
    card = tiny_card(slots=2, threshold=0.001)
    return make_tiny_model(tmp_path, BOXES, np.int32([1, 0]), np.float32([1.0, 0.5]), card=card)


def suite(model: Path, parts: tuple[str, ...], said: list[str], seconds: float = 0.5) -> dict[str, Table]:
    """Title, up to the first comma, -> table. said: what the user is told."""
    found = node.node_suite(
        *(model, RUNTIME, SegmentOptions(), bench_image(None)), said.append, said.append, parts, seconds
    )
    return {table.title.partition(",")[0]: table for table in found.tables}


def columns(table: Table) -> dict[str, list[Cell]]:
    return {name: [row[i] for row in table.rows] for i, name in enumerate(table.columns)}


@needs_ros
def test_stages_and_instances_of_the_real_node(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_parts, "CALM", 25.0)
    monkeypatch.setattr(node_parts, "OTHER_ENCODINGS", ("mono8",))
    said: list[str] = []
    found = suite(model, ("instances", "stages"), said)
    stages = columns(found["Stages of a frame in the node"])
    assert {"transport", "wait", "infer", "processing", "own work", "total"} <= set(stages["stage"])
    assert all(isinstance(value, float) and value > 0 for value in stages["jpeg p50"])
    rows = dict(zip(stages["stage"], stages["bgr8 p50"], strict=True))
    assert rows["total"] >= rows["own work"] > 0  # type: ignore[operator]
    assert columns(found["Encodings"])["encoding"] == ["bgr8", "jpeg", "mono8"]
    counts = columns(found["Instances"])
    assert counts["instances"] == [0, 2]  # the model knows no more
    assert counts["threshold"][0] == 1.0
    assert all(isinstance(value, float) and value > 0 for value in counts["node CPU"])
    assert any(text.startswith("node: bgr8 at 25 Hz: ") for text in said)
    assert sum("stages: " in text or "instances: " in text for text in said) == 2


@needs_ros
def test_cameras_play_together_and_their_results_are_told_apart(model: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.npy"
    np.save(image, bench_image(None)[:64, :96])
    setup = Setup(model, RUNTIME, SegmentOptions(), image, 0.5, lambda _: None)
    with Session(setup, tmp_path / "logs", [["left", "right"], ["jpeg/compressed"]], "stock") as session:
        assert session.facts["runtime"] == "onnxruntime"
        both = session.at_rate(30.0).record
        one = session.at_rate(30.0, group=1, encoding="jpeg").record
        session.set(score_threshold=0.9)
        with pytest.raises(FassstError, match="score_threshold"):
            session.set(score_threshold=7.0)
    assert (both.cameras, one.cameras) == (2, 1)
    assert len(both.by_camera) == 2
    assert sum(both.by_camera) == both.segmented > 0
    assert both.counters["segmented"] == both.segmented
    assert one.segmented > 0
    assert both.cpu_ms is not None
    assert both.cpu_ms > 0


@needs_ros
def test_a_node_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(FassstError, match=r"absent\.onnx"):
        suite(tmp_path / "absent.onnx", ("stages",), [])


@needs_ros
def test_a_wrong_time_of_a_pass(model: Path) -> None:
    with pytest.raises(ConfigError, match="--node-seconds is 0; expected"):
        suite(model, ("stages",), [], 0.0)


def test_transports_are_set_for_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TRANSPORT, "RMW_IMPLEMENTATION"):
        monkeypatch.delenv(name, raising=False)
    assert node_session.own_transport() == {}
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")

    def settings(transport: str) -> dict[str, str]:
        found = node_session._environment(tmp_path, transport)
        return {name: found[name] for name in (*TRANSPORT, "RMW_IMPLEMENTATION") if name in found}

    fast = {"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}
    assert settings("stock") == fast
    assert settings("LARGE_DATA") == {**fast, "FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}
    assert len(settings(node_session.PROFILE)) == 2
    own = {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp", "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}
    assert settings(node_session.OWN) == own


def test_options() -> None:
    parser = argparse.ArgumentParser()
    node.add_arguments(parser)
    assert parser.parse_args([]).node_parts == tuple(node.PARTS)
    assert parser.parse_args(["--node-parts", "rates, stages"]).node_parts == ("rates", "stages")
    assert "transports: " in " ".join(parser.format_help().split())
    with pytest.raises(argparse.ArgumentTypeError, match="'fast'; expected some of stages,rates"):
        node._parts("fast")
    with pytest.raises(argparse.ArgumentTypeError):
        node._parts(",")


def record(
    rate: float, latency: float | None, segmented: int, cameras: int = 1, kind: str = "fixed"
) -> RateRecord:
    percentiles = {"p50": latency, "p90": latency, "p99": latency and latency * 2}
    each = segmented // cameras
    return RateRecord(
        *(rate, kind, cameras, rate, 0.0, 100, segmented, {}, percentiles, {}),
        by_camera=(segmented - each * (cameras - 1), *([each] * (cameras - 1))),
        cpu_ms=60.0 + cameras,
    )


def test_table_of_rates() -> None:
    passes = [record(10, 40.0, 100), record(20, 42.0, 96), record(30, None, 0)]
    found = node_tables.rates({"bgr8": (HighestRate(24.0, "node"), passes)})
    rows = columns(found.tables[0])
    assert rows["missing %"] == [0, pytest.approx(4), 100]
    assert rows["outcome"] == ["sustained", "sustained", "too fast"]
    assert rows["p50"] == [40.0, 42.0, None]
    summary = dict(found.summary)
    assert summary["highest rate with < 5 % missing frames, bgr8"] == "24 Hz"
    told = summary["stamp to result in another process, bgr8"]
    assert told == "40 ms p50, 80 ms p99 at 10 Hz; 42 ms p50, 84 ms p99 at 20 Hz"


def test_cameras_and_their_law() -> None:
    calm = {n: record(16 / n, 30.0 + 10 * n, 96, n) for n in (1, 2, 4, 8)}
    found = node_tables.cameras({n: (HighestRate(24.0 / n, "node"), [r]) for n, r in calm.items()}, calm)
    rows = columns(found.tables[0])
    assert rows["Hz in all"] == [16.0] * 4
    assert rows["results/s"] == [pytest.approx(0.96 * 16)] * 4
    assert rows["least, most results of one"] == ["96, 96", "48, 48", "24, 24", "12, 12"]
    assert dict(found.summary) == {
        "highest sum of rates with < 5 % missing frames, by cameras": "1: 24 Hz, 2: 24 Hz, 4: 24 Hz, 8: 24 Hz"
    }
    (plot,) = found.plots
    assert plot.series["latency p50"] == [(1.0, 40.0), (2.0, 50.0), (4.0, 70.0), (8.0, 110.0)]
    assert plot.words[0].startswith("Rates of all cameras together: 16 Hz. ")
    assert plot.words[1].startswith("Latency p50: 30 ms + 10 ms per camera")
    assert plot.words[2].startswith("CPU for a result: 60 ms + 1 ms per camera")


def test_own_work_is_summed_frame_by_frame() -> None:
    times = {"decode": [1.0, 5.0], "resize": [2.0, 1.0], "infer": [20.0, 20.0], "publish": [1.0, 1.0]}
    assert node_tables.with_own_work(times)["own work"] == [4.0, 7.0]


def test_nothing_arrived() -> None:
    nothing = Pass(record(10, None, 0), {}, 0.0)
    assert node_tables.transports({("stock", "bgr8"): nothing}).tables[0].rows[0][2] is None
    assert node_tables.stages({"bgr8": nothing, "jpeg": nothing}).summary == ()
    found = node_tables.instances({0: nothing, 10: nothing}, {0: 1.0, 10: 0.5})
    assert columns(found.tables[0])["own work"] == [None, None]
    assert found.plots[0].words == ()


def test_disturbed_passes_are_repeated(tmp_path: Path) -> None:
    said: list[str] = []
    setup = Setup(tmp_path, RUNTIME, SegmentOptions(), tmp_path, 5.0, said.append)
    passes = iter([Pass(record(10, 60.0, 90), {}, 0.5), Pass(record(10, 40.0, 100), {}, 0.01)])

    class Machine:
        def at_rate(self, *_: object, **__: object) -> Pass:
            return next(passes)

    bench = node_parts.Bench(setup, tmp_path)
    found = bench._play(Machine(), "bgr8", 10.0)  # type: ignore[arg-type]
    assert found.others == 0.01
    assert bench.disturbed == 0
    assert said[0] == "again, because other programs used 50 % of the cores"
    assert said[1] == "bgr8 at 10 Hz: 0.0 % missing, p50 40.0 ms"
