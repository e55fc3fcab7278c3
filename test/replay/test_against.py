"""Two runs over one bag compared: what appeared, vanished and changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from replay_bags import BOXES, START, STEP, TOPIC, Shot, drive, picture, write_bag
from tiny_model import make_tiny_model

from fassst_ros.cli import main
from fassst_ros.replay.difference import difference
from fassst_ros.replay.record import ReplayRecord
from fassst_ros.types import Instances, RoiMask

Replay = Callable[..., tuple[int, ReplayRecord]]


def changed_model(folder: Path, boxes: np.ndarray, labels: tuple[int, ...]) -> Path:
    folder.mkdir()
    return make_tiny_model(folder, np.float32(boxes), np.int32(labels), np.float32([1.0, 0.6]))


def test_the_same_run_twice_is_all_the_same(replay: Replay, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", drive(3))
    replay(bag, out="before", video=True)
    status, record = replay(bag, "--against", tmp_path / "before")
    assert status == 0
    assert record.against is not None
    assert record.against["instances"] == {
        "same": 6, "appeared": 0, "vanished": 0, "class changed": 0, "mask changed": 0,
    }  # fmt: skip
    assert (record.against["frames"], record.against["frames_changed"]) == (3, 0)
    assert not any(worst.title.endswith("differ most") for worst in record.worst)


def test_what_vanished_and_appeared(replay: Replay, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", drive(3, reds=(255, 0, 255)))
    replay(bag, out="before", video=True)
    arguments = ("--score-threshold", "0.9", "--limit", "2")
    status, record = replay(bag, *arguments, "--against", tmp_path / "before/replay.json")
    assert status == 0
    found = record.against
    assert found is not None
    assert (found["instances"]["same"], found["instances"]["vanished"]) == (1, 1)
    assert found["per_class"]["person"]["vanished"] == 1
    assert (found["frames"], found["only_here"], found["only_there"]) == (2, 0, 1)
    assert found["changed"] == [{"topic": TOPIC, "stamp": START, "vanished": ["person"]}]
    different = next(worst for worst in record.worst if worst.title.endswith("differ most"))
    assert different.rows[0].notes == ("vanished: 1 person",)
    assert all((tmp_path / "out" / p.file).is_file() for p in different.rows[0].pictures)
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert 'id="against"' in page
    assert 'id="deltas"' in page
    # And the other way round.
    status, record = replay(bag, "--against", tmp_path / "out", out="back")
    assert record.against is not None
    assert record.against["instances"]["appeared"] == 1
    assert record.against["only_here"] == 1


def test_another_class_and_another_mask(replay: Replay, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", drive(1))
    replay(bag, out="before")
    moved = BOXES + np.float32([[0, 0, 0, 0], [-5, 0, -5, 0]])
    other = changed_model(tmp_path / "other", moved, (0, 0))
    _, record = replay(bag, "--model", other, "--against", tmp_path / "before")
    assert record.against is not None
    assert record.against["instances"] == {
        "same": 0, "appeared": 0, "vanished": 0, "class changed": 1, "mask changed": 1,
    }  # fmt: skip
    (entry,) = record.against["changed"]
    assert entry["class changed"] == ["car to person"]
    assert entry["mask changed"][0].startswith("person (IoU 0.")


def test_accuracy_of_both_runs(replay: Replay, tmp_path: Path) -> None:
    from test_truth import coco, write

    bag = write_bag(tmp_path / "bag", drive(2))
    write(bag / "ground_truth.json", coco([START, START + STEP]))
    replay(bag, out="before")
    _, record = replay(bag, "--against", tmp_path / "before")
    assert record.against is not None
    assert record.accuracy is not None
    expected = 100 * record.accuracy["mask"]["AP"]
    assert record.against["numbers"]["mask AP [%]"] == pytest.approx([expected] * 2)
    assert set(record.against["numbers"]) >= {"latency p50 [ms]", "latency p99 [ms]", "box AP [%]"}


def test_runs_that_cannot_be_compared(
    replay: Replay, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / "bag", drive(1))
    replay(bag, out="before")
    later = [Shot(TOPIC, START + 99 * STEP, START + 99 * STEP, picture())]
    status, record = replay(write_bag(tmp_path / "later", later), "--against", tmp_path / "before")
    assert status == 1
    assert "has no frame with the topic and stamp of one in this run" in record.notes[0]
    arguments = ["replay", str(bag), "--model", str(model)]
    same = str(tmp_path / "before")
    assert main([*arguments, "--out", same, "--against", same]) == 1
    assert "lies in the folder of this run" in capsys.readouterr().err
    assert (tmp_path / "before/results/metadata.yaml").is_file()
    (tmp_path / "before/results/results.db3").unlink()
    assert main([*arguments, "--out", str(tmp_path / "x"), "--against", same]) == 1
    assert "is no readable ROS bag" in capsys.readouterr().err


def instances(*squares: tuple[int, int, int, int]) -> Instances:
    """Squares of class, x, y and side on an image of 100 x 100."""
    masks = tuple(RoiMask(x, y, np.ones((side, side), np.bool_)) for _, x, y, side in squares)
    boxes = np.float32([(x, y, x + side, y + side) for _, x, y, side in squares]).reshape(-1, 4)
    scores = np.ones(len(squares), np.float32)
    return Instances(boxes, scores, np.int32([c for c, *_ in squares]), masks, (100, 100))


def test_pairs_are_the_best_ones_and_each_object_has_one() -> None:
    before = instances((1, 0, 0, 10), (1, 50, 50, 10), (3, 20, 20, 10))
    after = instances((3, 20, 21, 10), (1, 1, 0, 10), (1, 0, 0, 10), (1, 80, 80, 10))
    found = difference(before, after)
    assert [(i, j) for i, j, _ in found.pairs] == [(0, 2), (2, 0)]
    assert found.pairs[0][2] == 1.0
    assert found.pairs[1][2] == pytest.approx(90 / 110)
    assert (found.vanished, found.appeared) == ((1,), (1, 3))


def test_of_two_masks_alike_the_class_decides() -> None:
    before, after = instances((1, 0, 0, 10)), instances((3, 0, 0, 10), (1, 0, 0, 10))
    assert [(i, j) for i, j, _ in difference(before, after).pairs] == [(0, 1)]


def test_nothing_has_no_difference() -> None:
    empty = Instances.empty((100, 100))
    assert difference(empty, empty).pairs == ()
    assert difference(empty, instances((1, 0, 0, 5))).appeared == (0,)
