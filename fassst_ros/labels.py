"""Class lists that models are trained on. Ids are those of the data set, so that results compare."""

from __future__ import annotations

from fassst_ros.card import ClassInfo

#: The street classes of COCO, with COCO's category ids.
STREET = (
    ClassInfo(1, "person", (220, 20, 60)),
    ClassInfo(2, "bicycle", (200, 120, 20)),
    ClassInfo(3, "car", (30, 100, 255)),
    ClassInfo(4, "motorcycle", (160, 60, 220)),
    ClassInfo(6, "bus", (0, 180, 180)),
    ClassInfo(7, "train", (120, 160, 40)),
    ClassInfo(8, "truck", (20, 160, 90)),
)

#: The eight instance classes of Cityscapes, with its label ids and colours.
CITYSCAPES = (
    ClassInfo(24, "person", (220, 20, 60)),
    ClassInfo(25, "rider", (255, 0, 0)),
    ClassInfo(26, "car", (0, 0, 142)),
    ClassInfo(27, "truck", (0, 0, 70)),
    ClassInfo(28, "bus", (0, 60, 100)),
    ClassInfo(31, "train", (0, 80, 100)),
    ClassInfo(32, "motorcycle", (0, 0, 230)),
    ClassInfo(33, "bicycle", (119, 11, 32)),
)

CLASS_LISTS = {"street": STREET, "cityscapes": CITYSCAPES}
