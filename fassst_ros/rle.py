"""COCO's compressed run lengths: the `counts` string of a segmentation.

Each count is written as its difference to the count two before it (the first three as they
are), in groups of five bits, lowest first, with a sixth bit for "more follows", as the character
48 + group. See the COCO API, maskApi.c, rleToString.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fassst_ros.types import InputError, Instances


def compress(counts: ArrayLike) -> str:
    """The `counts` string of run lengths. Raises InputError for a negative one."""
    runs = np.asarray(counts, np.int64)
    if (runs < 0).any():
        raise InputError(f"run lengths hold {int(runs.min())}; expected none below 0")
    rest = runs.copy()
    rest[3:] -= runs[1:-2]
    groups, written = [], []
    more = np.ones(runs.size, np.bool_)
    while more.any():
        group = rest & 31
        rest >>= 5  # keeps the sign
        sign = (group & 16) != 0
        written.append(more)
        more = more & np.where(sign, rest != -1, rest != 0)
        groups.append(group | np.where(more, 32, 0))
    if not groups:
        return ""
    characters = (np.stack(groups, axis=1) + 48).astype(np.uint8)
    return characters[np.stack(written, axis=1)].tobytes().decode("ascii")


def expand(text: str) -> list[int]:
    """The run lengths of a `counts` string. Raises InputError if it is none."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise InputError(f"character {character!r} in COCO run lengths; expected '0' to 'o'")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise InputError("COCO run lengths end in the middle of a number")
    return counts


def coco_results(instances: Instances, image_id: int) -> list[dict[str, Any]]:
    """One dict an instance in COCO's result format (what `COCO.loadRes` reads).

    category_id is the class id of the model card; bbox is x, y, width, height in source pixels.
    """
    results = []
    for i, mask in enumerate(instances.to_rle()):
        x0, y0, x1, y1 = (float(v) for v in instances.boxes[i])
        results.append(
            {
                "image_id": image_id,
                "category_id": int(instances.class_ids[i]),
                "bbox": [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)],
                "score": round(float(instances.scores[i]), 5),
                "segmentation": {"size": mask["size"], "counts": compress(mask["counts"])},
            }
        )
    return results
