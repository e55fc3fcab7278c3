"""Parameters: descriptors, start values, and changes at run time by the node's services."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from fassst_ros.msg import InstanceArray, LabelInfo
from node_bench import Bench, make_image, segment_one, wait_until
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import Image

from fassst_ros.ros import qos
from fassst_ros.ros.params import FIELDS, KINDS
from fassst_ros.types import ConfigError

TYPES = {
    bool: ParameterType.PARAMETER_BOOL,
    int: ParameterType.PARAMETER_INTEGER,
    float: ParameterType.PARAMETER_DOUBLE,
    str: ParameterType.PARAMETER_STRING,
    tuple[str, ...]: ParameterType.PARAMETER_STRING_ARRAY,
}


def test_every_parameter_describes_itself(bench: Bench) -> None:
    _, driver = bench.start()
    for name, field in FIELDS.items():
        meta = field.metadata
        described = driver.describe(name)
        assert described.type == TYPES[KINDS[name]]
        assert meta["doc"] in described.description
        assert f"[{meta['unit']}]" in described.description or not meta["unit"]
        assert described.read_only == (name == "autostart")
        assert ("unconfigured" in described.additional_constraints) == (
            meta["read_only"] and name != "autostart"
        )
        for choice in meta["choices"]:
            assert choice in described.additional_constraints
        ranges = [*described.floating_point_range, *described.integer_range]
        assert len(ranges) == (meta["minimum"] is not None)
        if ranges:
            assert (ranges[0].from_value, ranges[0].to_value) == (meta["minimum"], meta["maximum"])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("score_threshold", math.nan, "nan"),
        ("score_threshold", math.inf, "inf"),
        ("score_threshold", 1.01, "1.01"),
        ("score_threshold", -0.5, r"expected a value in \[0, 1\], or -1"),
        ("score_threshold", "high", "Wrong parameter type"),
        ("mask_threshold", -2.0, "-2.0"),
        ("max_instances", 0, "0"),
        ("max_age", -1.0, "-1.0"),
        ("diagnostics_period", 0.0, "0.0"),
        ("classes", ["car", "unicorn"], "does not know 'unicorn'; it knows: person, car"),
        ("model", "/other.onnx", "fixed while the node is configured.*`cleanup`"),
        ("depth", 7, "fixed while the node is configured"),
        ("image_topics", ["a", "b"], "fixed while the node is configured"),
        ("runtime", "magic", "expected one of auto, tensorrt"),
        ("autostart", True, "read-only"),
    ],
)
def test_wrong_changes_are_refused_and_explained(bench: Bench, name: str, value: Any, words: str) -> None:
    node, driver = bench.start()
    assert driver.change("configure")
    before = node.settings
    result = driver.set(name, value)
    assert not result.successful
    assert re.search(words, result.reason), result.reason
    assert node.settings == before
    assert node.get_parameter(name).value != value or value is True


def test_fixed_parameters_may_be_set_to_what_they_are(bench: Bench) -> None:
    _, driver = bench.start()
    assert driver.change("configure")
    assert driver.set("depth", 5).successful
    assert driver.set("use_sim_time", False).successful


def test_unconfigured_everything_may_change(bench: Bench) -> None:
    node, driver = bench.start()
    assert driver.set("depth", 7).successful
    assert driver.set("model", "/nowhere.onnx").successful
    assert driver.set("classes", ["unicorn"]).successful, "only a loaded model knows its classes"
    assert node.settings.node.depth == 7
    assert not driver.set("image_topics", ["left/image", "left/image/compressed"]).successful


def test_changes_act_on_the_next_frame(bench: Bench) -> None:
    _, driver = bench.active()
    results = driver.collect(InstanceArray, "instances")
    labels = driver.collect(LabelInfo, "label_info", qos.LATCHED)
    camera = driver.publisher(Image, "/image")

    def scores() -> list[float]:
        return [round(i.score, 2) for i in segment_one(driver, camera, results, make_image()).instances]

    assert scores() == [0.95, 0.9, 0.8]
    assert driver.set("score_threshold", 0.85).successful
    assert scores() == [0.95, 0.9]
    wait_until(lambda: labels and labels[-1].score_threshold == pytest.approx(0.85))
    assert driver.set("classes", ["car"]).successful
    assert scores() == [0.9]
    assert driver.set("classes", [""]).successful
    assert driver.set("max_instances", 1).successful
    assert scores() == [0.95]
    assert driver.set("score_threshold", 1).successful, "an integer will do for a double"
    assert scores() == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("score_threshold", math.nan, "nan"),
        ("score_threshold", 1, "decimal point"),
        ("score_threshold", 7.0, "7.0"),
        ("depth", 0, "depth"),
        ("reliability", "sometimes", "expected one of auto, reliable"),
    ],
)
def test_wrong_start_values_are_explained(bench: Bench, name: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        bench.start(**{name: value})
    assert name in str(caught.value)


def test_the_diagnostics_period_changes_at_once(bench: Bench) -> None:
    from diagnostic_msgs.msg import DiagnosticArray

    _, driver = bench.start(diagnostics_period=60.0)
    came = driver.collect(DiagnosticArray, "/diagnostics")
    assert driver.set("diagnostics_period", 0.1).successful
    wait_until(lambda: len(came) >= 3, timeout=50)


@pytest.mark.parametrize("kind", [0, 2, 4, 9, 99])
def test_nonsense_requests_leave_the_node_alive(bench: Bench, kind: int) -> None:
    """Values without type, of another type, and of a type that does not exist."""
    node, driver = bench.start()
    bench.failures = 5 if kind == 99 else 0  # rclpy itself fails on these
    before = node.settings
    value = ParameterValue(type=kind, integer_value=2**62, string_value="x", string_array_value=["y"])
    names = ("score_threshold", "max_instances", "classes", "no_such_parameter", "autostart")
    for number, name in enumerate(names, start=1):
        request = SetParameters.Request(parameters=[ParameterMessage(name=name, value=value)])
        client = driver.node.create_client(SetParameters, "/segment_node/set_parameters")
        assert client.wait_for_service(60.0)
        future = client.call_async(request)
        assert driver.state == "unconfigured"
        if kind == 99:
            wait_until(lambda number=number: bench.failed == number)
        else:
            wait_until(future.done)
    assert driver.state == "unconfigured"
    assert (node.settings.segment.classes == ("y",)) == (kind == 9)
    assert node.settings.node == before.node


def test_a_misspelt_parameter_is_noticed(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    bench.start(score_treshold=0.5, use_sim_time=False)
    said = capfd.readouterr().err
    assert "unknown parameter score_treshold is ignored; did you mean score_threshold?" in said
    assert said.count("unknown parameter") == 1
