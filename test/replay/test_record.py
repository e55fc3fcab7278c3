"""replay.json, and the page that is made from it, whoever has made the record."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from fassst_ros.replay.rates import HighestRate, RateRecord
from fassst_ros.replay.record import (
    CameraRecord,
    FrameRecord,
    Picture,
    PictureRow,
    ReplayRecord,
    Worst,
    load_record,
)
from fassst_ros.replay.report import summary_lines, write_report
from fassst_ros.types import ConfigError, InputError


def live_record() -> ReplayRecord:
    """As a run with the node makes it: stages of the node, drops that were measured, fixed rates."""
    stages = {"transport": 3.0, "wait": 1.0, "infer": 30.0, "publish": 2.0}
    frames = [
        FrameRecord(
            "/image", k, 100 * k, 10**8 * k, "segmented", "", stages, 36.0 + k, {"car": k % 3}, (1, k + 2)
        )
        for k in range(1000)
    ]
    frames[5] = FrameRecord("/image", 5, 500, 5 * 10**8, "dropped", "a newer frame took its place")
    frames[6] = FrameRecord("/image", 6, 0, 6 * 10**8, "failed", "<broken> & cut off")
    percentiles: dict[str, float | None] = {"p50": 40.0, "p90": 45.0, "p99": 50.0}
    rates = [
        RateRecord(10.0, "fixed", 1, 10.0, 0.1, 50, 50, {"dropped": 0}, percentiles),
        RateRecord(60.0, "search", 1, 60.0, 0.1, 300, 200, {"dropped": 100}, percentiles),
        RateRecord(90.0, "search", 1, 60.0, 0.1, 300, 0, {}, {"p50": None, "p90": None, "p99": None}),
    ]
    return ReplayRecord(
        kind="live",
        title="tiny 1 live on <drive>",
        facts={"bag": "drive"},
        rate="as recorded",
        colors={"car": (0, 0, 142)},
        cameras=[CameraRecord("/image", "sensor_msgs/msg/Image", 1000, "/segment_node/instances")],
        frames=frames,
        notes=["the player was late"],
        results="results",
        rates=rates,
        highest=HighestRate(24.0, "node"),
        worst=[Worst("Worst", "by hand", (PictureRow("one", (Picture("pictures/a.jpg", "A"),), ("n",)),))],
    )


def test_json_gives_the_same_record_again() -> None:
    record = live_record()
    assert ReplayRecord.from_json(record.to_json(), "x") == record
    lines = record.to_json().splitlines()
    assert sum('"index": ' in line for line in lines) == 1000, "a line a frame, to be searched by people"


def test_summary_says_the_numbers() -> None:
    summary = live_record().summary()
    assert (summary["frames"], summary["segmented"], summary["dropped"], summary["failed"]) == (
        1000,
        998,
        1,
        1,
    )
    assert summary["instances"] == {"car": 997}
    assert summary["tracks"] == 999
    assert summary["latency_ms"]["p50"] == 36.0 + 500  # the 499th of 998, of which 5 and 6 are missing
    assert list(summary["stages_ms"]) == ["transport", "wait", "infer", "publish"]


def test_page_of_a_live_run(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures/a.jpg"), np.zeros((8, 8, 3), np.uint8))
    page = write_report(live_record(), tmp_path).read_text(encoding="utf-8")
    assert "tiny 1 live on &lt;drive&gt;" in page
    assert "&lt;broken&gt; &amp; cut off" in page
    assert "the player was late" in page
    for part in ('id="latency"', 'id="rates"', 'id="instances"', 'id="tracks"', 'id="failed"', "24 Hz"):
        assert part in page
    assert 'id="drops"' not in page, "a live run has measured them"
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert sources
    assert all(source.startswith("data:image/") for source in sources), "the page is one file"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["index.html", "pictures"]


def test_page_of_a_run_without_frames(tmp_path: Path) -> None:
    record = ReplayRecord("offline", "nothing", notes=["ended early"])
    assert "ended early" in write_report(record, tmp_path).read_text(encoding="utf-8")
    assert summary_lines(record)[0] == "0 frames: 0 segmented, 0 dropped, 0 failed"


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "index.html").mkdir()
    with pytest.raises(ConfigError, match="cannot write"):
        write_report(ReplayRecord("offline", "x"), tmp_path)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "summary": {}}', "null"])
def test_json_of_something_else(text: str, tmp_path: Path) -> None:
    (tmp_path / "replay.json").write_text(text)
    with pytest.raises(InputError, match=r"is not the replay\.json of a replay"):
        load_record(tmp_path)
    with pytest.raises(InputError, match="Expected the folder of an earlier replay"):
        load_record(tmp_path / "none")
