"""Does a loaded graph fit its card? Asked once, when a model is opened."""

from __future__ import annotations

import numpy as np

from fassst_ros.card import ModelCard
from fassst_ros.runtimes.base import INPUT_NAME, OUTPUT_NAMES, Runtime, TensorSpec
from fassst_ros.types import ModelError


def expected_specs(card: ModelCard) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """(inputs, outputs) that a graph with this card has.

    images (1, H, W, 3) uint8 RGB -> scores (1, K), labels (1, K), boxes (1, K, 4) and masks (1, K, h, w).
    """
    k = card.slots
    shapes = ((1, k), (1, k), (1, k, 4), (1, k, card.masks.height, card.masks.width))
    dtypes = (np.float32, np.int32, np.float32, np.float32)
    images = TensorSpec(INPUT_NAME, (1, card.input_height, card.input_width, 3), np.dtype(np.uint8))
    outputs = tuple(
        TensorSpec(name, shape, np.dtype(dtype))
        for name, shape, dtype in zip(OUTPUT_NAMES, shapes, dtypes, strict=True)
    )
    return (images,), outputs


def check_specs(runtime: Runtime, card: ModelCard) -> None:
    """Raise ModelError if names, shapes or types of the graph are not what its card says."""
    inputs, outputs = expected_specs(card)
    for kind, came, expected in (("inputs", runtime.inputs, inputs), ("outputs", runtime.outputs, outputs)):
        if set(came) != set(expected):
            raise ModelError(
                f"model {card.name!r} does not fit its card: its {kind} are [{describe(came)}]; the card "
                f"expects [{describe(expected)}]. Export the model again, or copy model and card from one "
                "release"
            )


def describe(specs: tuple[TensorSpec, ...]) -> str:
    """Specs on one line, for people."""
    return "; ".join(str(spec) for spec in specs)
