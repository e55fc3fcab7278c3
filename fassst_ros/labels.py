"""Class lists that models are trained on. Ids are those of the data set, so that results compare."""

from __future__ import annotations

import colorsys

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

_COCO_NAMES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck",
    9: "boat", 10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench",
    16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear",
    24: "zebra", 25: "giraffe", 27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase",
    34: "frisbee", 35: "skis", 36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat",
    40: "baseball glove", 41: "skateboard", 42: "surfboard", 43: "tennis racket", 44: "bottle",
    46: "wine glass", 47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl", 52: "banana",
    53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog", 59: "pizza",
    60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed", 67: "dining table",
    70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard", 77: "cell phone",
    78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book", 85: "clock",
    86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
}  # fmt: skip


def _colour(index: int) -> tuple[int, int, int]:
    """20 hues in four kinds of light and dark; neighbours in the list differ."""
    kinds = ((0.95, 1.0), (0.5, 1.0), (1.0, 0.6), (0.45, 0.6))
    hue = index // 4 * 7 % 20 / 20 + index % 4 / 80
    red, green, blue = colorsys.hsv_to_rgb(hue, *kinds[index % 4])
    return round(255 * red), round(255 * green), round(255 * blue)


_STREET_COLOURS = {c.id: c.color for c in STREET}

#: The 80 classes of COCO detection, with its category ids. Street classes have the colours of STREET.
COCO = tuple(
    ClassInfo(number, name, _STREET_COLOURS.get(number) or _colour(index))
    for index, (number, name) in enumerate(_COCO_NAMES.items())
)

CLASS_LISTS = {"street": STREET, "cityscapes": CITYSCAPES, "coco": COCO}
