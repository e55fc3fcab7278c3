"""What the tests of `fassst label` share: the command, a teacher whose answer is known, its boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from test_yolox import write_graph

from fassst_ros.cli import main
from fassst_ros.labels import STREET
from fassst_ros.yolox import Boxes

CATEGORIES = [{"id": c.id, "name": c.name} for c in STREET]
SIDE_BY_SIDE = "--tiles none --threads 1"


def boxes(*rows: tuple[int, float, float, float, float, float]) -> Boxes:
    """rows: (category, score, x0, y0, x1, y1), best score first."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Boxes(table[:, 2:], table[:, 1], table[:, 0].astype(np.int32))


def write_car_finder(folder: Path) -> Path:
    """A YOLOX that finds a car of 40 x 20 pixels at (8, 22) in any image of 64 x 64, and a truck there."""
    box = [0.5, 0.0, np.log(5), np.log(2.5)]  # cell (row 4, column 3) of stride 8: centre (28, 32)
    found = [(4 * 8 + 3, box, 0.9, 2, 1.0), (4 * 8 + 3 + 1, [-0.5, 0.0, *box[2:]], 0.7, 7, 1.0)]
    return write_graph(folder, found)


def label(*arguments: object) -> int:
    return main(["label", *(part for a in arguments for part in str(a).split())])
