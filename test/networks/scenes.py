"""Pictures that a network can learn in a few steps; for the tests of this folder."""

from __future__ import annotations

import torch

from fassst_ros.networks.base import Target


def scene(
    seed: int = 0, labelled: tuple[bool, bool, bool] = (True, True, True)
) -> tuple[torch.Tensor, list[Target]]:
    """Two images of 128 x 160 with bright rectangles: class 0 is red, class 2 is blue."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(90, 130, (2, 128, 160, 3), generator=generator, dtype=torch.uint8)
    targets: list[Target] = []
    for image in images:
        boxes = torch.tensor([[10.0, 20.0, 60.0, 100.0], [90.0, 40.0, 150.0, 90.0]])
        masks = torch.zeros(2, 64, 80, dtype=torch.uint8)
        for i, (box, colour) in enumerate(zip(boxes.int().tolist(), ((255, 0, 0), (0, 0, 255)), strict=True)):
            image[box[1] : box[3], box[0] : box[2]] = torch.tensor(colour, dtype=torch.uint8)
            masks[i, box[1] // 2 : box[3] // 2, box[0] // 2 : box[2] // 2] = 255
        targets.append(
            Target(
                boxes=boxes,
                labels=torch.tensor([0, 2]),
                masks=masks,
                labelled=torch.tensor(labelled),
                ignore=torch.zeros(0, 4),
            )
        )
    return images, targets
