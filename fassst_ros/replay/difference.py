"""What changed between two lists of instances of one camera: which are the same, which came and went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fassst_ros.tracking_assignment import assign
from fassst_ros.tracking_overlap import box_iou, mask_iou
from fassst_ros.types import Instances

#: Masks that overlap by less are not of the same object.
SAME_OBJECT = 0.5


@dataclass(frozen=True, slots=True)
class Difference:
    """before, after: what was compared. pairs: (index before, index after, mask IoU), each object once.

    vanished: indices of `before`, appeared: of `after`, that have no partner.
    """

    pairs: tuple[tuple[int, int, float], ...]
    vanished: tuple[int, ...]
    appeared: tuple[int, ...]


def difference(before: Instances, after: Instances, least: float = SAME_OBJECT) -> Difference:
    """Pair instances whose masks overlap by at least `least`, of any class, with the largest sum of IoUs."""
    possible = box_iou(before.boxes.astype(np.float64), after.boxes.astype(np.float64)) > 0
    still = np.zeros((len(before), 2), np.int64)
    overlaps = mask_iou(before.masks, after.masks, still, possible)
    # A class that stays decides between partners that fit about as well.
    same = before.class_ids[:, None] == after.class_ids[None]
    rows, columns = assign(np.where(overlaps >= least, overlaps + 0.1 * same, 0))
    pairs = tuple((int(i), int(j), float(overlaps[i, j])) for i, j in zip(rows, columns, strict=True))
    vanished = tuple(i for i in range(len(before)) if i not in set(rows.tolist()))
    appeared = tuple(j for j in range(len(after)) if j not in set(columns.tolist()))
    return Difference(pairs, vanished, appeared)
