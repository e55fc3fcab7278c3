#!/usr/bin/env python3
"""Makes docs/images/street.webp: the sample bag, segmented, tracked and drawn by the package itself.

    python scripts/make_animation.py [--bag BAG] [--out FILE]

The licence and the origin of the photos are in test/data/street_sample/ATTRIBUTION.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from fassst_ros.bag import ImageBag
from fassst_ros.config import RuntimeOptions, TrackOptions
from fassst_ros.image_messages import compressed_to_frame
from fassst_ros.overlay import draw
from fassst_ros.pipeline import Segmenter
from fassst_ros.tracking import Tracker, segment_tracked

ROOT = Path(__file__).resolve().parents[1]
#: Of the pictures in the animation: share of the image's size, and WebP quality 1..100.
SCALE, QUALITY = 0.4, 35


def main() -> None:
    """Draw every image of the bag and write them as one animated WebP."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bag", type=Path, default=ROOT / "test/data/street_sample")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images/street.webp")
    options = parser.parse_args()
    frames, stamps = [], []
    tracker = Tracker(TrackOptions(track=True))
    with Segmenter.open(RuntimeOptions()) as segmenter, ImageBag(options.bag) as bag:
        for image in bag:
            frame = compressed_to_frame(image.message)
            found = segment_tracked(segmenter, tracker, frame, image.stamp / 1e9)
            drawn = draw(frame.image, found.instances, segmenter.card, frame.color, scores=False, scale=SCALE)
            frames.append(drawn if frame.color == "bgr" else np.ascontiguousarray(drawn[..., ::-1]))
            stamps.append(image.stamp)
    animation = cv2.Animation()
    animation.frames = frames
    durations = np.diff(stamps) // 10**6
    animation.durations = np.append(durations, durations[-1]).astype(np.int32)
    cv2.imwriteanimation(str(options.out), animation, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    print(f"{options.out}: {len(frames)} pictures, {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
