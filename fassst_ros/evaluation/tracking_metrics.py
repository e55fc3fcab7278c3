"""How well ids hold over time: HOTA, IDF1 and MOTA.

HOTA: Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking", IJCV 129 (2021),
arXiv 2009.07736. MOTA: Bernardin and Stiefelhagen, EURASIP JIVP 2008. IDF1: Ristani et al., "Performance
Measures and a Data Set for Multi-Target, Multi-Camera Tracking", ECCV 2016 workshops, arXiv 1609.01775.
The rules where papers leave a choice are those of TrackEval, to which the tests compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fassst_ros.tracking_assignment import assign

#: Overlaps at which HOTA is the mean of.
ALPHAS = np.arange(0.05, 0.99, 0.05)
#: Overlap from which MOTA and IDF1 take a track for an object.
MATCHED = 0.5
_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class FrameMatch:
    """One frame: objects (g,) and tracks (t,) by ids, unique over all videos; overlap (g, t) in 0..1.

    The overlap of an object and a track that must not be a pair, as of different classes, is 0.
    """

    objects: NDArray[np.int64]
    tracks: NDArray[np.int64]
    overlap: NDArray[np.float64]

    def part(self, rows: NDArray[np.bool_], columns: NDArray[np.bool_]) -> FrameMatch:
        """With some of the objects and tracks only."""
        return FrameMatch(self.objects[rows], self.tracks[columns], self.overlap[np.ix_(rows, columns)])


@dataclass(frozen=True, slots=True)
class TrackScores:
    """hota, deta, assa: means over ALPHAS. mota may be below 0. switches: of id. All but counts in 0..1.

    objects and tracks: how many boxes of them there are; missed objects and false_alarms, at MATCHED.
    """

    hota: float
    deta: float
    assa: float
    mota: float
    idf1: float
    switches: int
    missed: int
    false_alarms: int
    objects: int
    tracks: int


def track_scores(frames: Sequence[FrameMatch]) -> TrackScores | None:
    """All metrics of the frames of one or several videos, in order; None if they show no object."""
    dense = _dense(frames)
    objects, tracks = (sum(len(getattr(f, name)) for f in dense) for name in ("objects", "tracks"))
    if not objects:
        return None
    hota, deta, assa = _hota(dense)
    hits, switches = _clear(dense)
    missed, false_alarms = objects - hits, tracks - hits
    return TrackScores(
        hota=hota,
        deta=deta,
        assa=assa,
        mota=1 - (missed + false_alarms + switches) / objects,
        idf1=2 * _identity_hits(dense) / (objects + tracks),
        switches=switches,
        missed=missed,
        false_alarms=false_alarms,
        objects=objects,
        tracks=tracks,
    )


def _dense(frames: Sequence[FrameMatch]) -> list[FrameMatch]:
    """The same with ids from 0 on."""
    numbers = []
    for name in ("objects", "tracks"):
        ids: set[int] = set()
        ids.update(*(getattr(frame, name).tolist() for frame in frames))
        numbers.append({old: new for new, old in enumerate(sorted(ids))})
    return [
        FrameMatch(
            np.array([numbers[0][i] for i in frame.objects.tolist()], np.int64),
            np.array([numbers[1][i] for i in frame.tracks.tolist()], np.int64),
            frame.overlap,
        )
        for frame in frames
    ]


def _table(frames: Sequence[FrameMatch]) -> NDArray[np.float64]:
    """Zeros, (all objects, all tracks)."""
    size = [1 + max(int(getattr(f, n).max(initial=-1)) for f in frames) for n in ("objects", "tracks")]
    return np.zeros(size)


def _lifetimes(frames: Sequence[FrameMatch], size: tuple[int, ...]) -> NDArray[np.float64]:
    """(all objects, all tracks) in how many frames either is, counted twice where both are."""
    objects, tracks = np.zeros(size[0]), np.zeros(size[1])
    for frame in frames:
        objects[frame.objects] += 1
        tracks[frame.tracks] += 1
    total: NDArray[np.float64] = objects[:, None] + tracks
    return total


def _hota(frames: Sequence[FrameMatch]) -> tuple[float, float, float]:
    """HOTA, DetA and AssA: sections 4 and 5 of the paper; the pairs of a frame favour long alliances."""
    alliance = _table(frames)
    for frame in frames:
        overlap = frame.overlap
        union = overlap.sum(axis=0) + overlap.sum(axis=1, keepdims=True) - overlap
        shares = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > _EPSILON)
        alliance[np.ix_(frame.objects, frame.tracks)] += shares
    lifetimes = _lifetimes(frames, alliance.shape)
    alliance /= np.maximum(lifetimes - alliance, _EPSILON)

    together = np.zeros((len(ALPHAS), *alliance.shape))  # frames in which they were a pair
    hits, total = np.zeros(len(ALPHAS)), 0
    for frame in frames:
        rows, columns = assign(alliance[np.ix_(frame.objects, frame.tracks)] * frame.overlap)
        good = frame.overlap[rows, columns] >= ALPHAS[:, None] - _EPSILON
        hits += good.sum(axis=1)
        together[:, frame.objects[rows], frame.tracks[columns]] += good
        total += len(frame.objects) + len(frame.tracks)
    deta = hits / (total - hits)
    association = together / np.maximum(lifetimes - together, 1)
    assa = (together * association).sum(axis=(1, 2)) / np.maximum(hits, 1)
    return float(np.sqrt(deta * assa).mean()), float(deta.mean()), float(assa.mean())


def _clear(frames: Sequence[FrameMatch]) -> tuple[int, int]:
    """Hits and switches of id. A pair of the frame before stays one while it overlaps enough."""
    hits = switches = 0
    ever: dict[int, int] = {}  # object -> its last track
    before: dict[int, int] = {}  # those of the frame before
    for frame in frames:
        kept = np.array([before.get(i, -1) for i in frame.objects.tolist()], np.int64)
        enough = frame.overlap >= MATCHED - _EPSILON
        wish = frame.overlap + 1000.0 * (kept[:, None] == frame.tracks)
        rows, columns = assign(np.where(enough, wish, 0))
        pairs = zip(frame.objects[rows].tolist(), frame.tracks[columns].tolist(), strict=True)
        matched = dict(pairs)
        hits += len(matched)
        switches += sum(ever.get(i, track) != track for i, track in matched.items())
        ever |= matched
        if frame.overlap.size:  # a frame without objects or tracks ends no pair
            before = matched
    return hits, switches


def _identity_hits(frames: Sequence[FrameMatch]) -> int:
    """IDTP: hits of the best one-to-one pairs of objects and tracks over all frames."""
    hits = _table(frames)
    for frame in frames:
        hits[np.ix_(frame.objects, frame.tracks)] += frame.overlap >= MATCHED - _EPSILON
    return int(hits[assign(hits)].sum())
