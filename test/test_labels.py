from __future__ import annotations

from itertools import combinations

from fassst_ros.labels import CLASS_LISTS, COCO, STREET


def test_ids_names_and_colours_are_unique() -> None:
    for classes in CLASS_LISTS.values():
        for values in zip(*((c.id, c.name, c.color) for c in classes), strict=True):
            assert len(set(values)) == len(classes)
        assert all(1 <= c.id <= 255 for c in classes)


def test_coco_is_the_official_list() -> None:
    assert len(COCO) == 80
    assert sum(c.id for c in COCO) == 3596  # 1..90 without 12 26 29 30 45 66 68 69 71 83
    ends = [(c.id, c.name) for c in COCO[:1] + COCO[11:12] + COCO[-1:]]
    assert ends == [(1, "person"), (13, "stop sign"), (90, "toothbrush")]


def test_colours_of_coco_can_be_told_apart() -> None:
    assert all(
        max(abs(a - b) for a, b in zip(x.color, y.color, strict=True)) >= 8 for x, y in combinations(COCO, 2)
    )
    assert {c.name: c.color for c in STREET}.items() <= {c.name: c.color for c in COCO}.items()
