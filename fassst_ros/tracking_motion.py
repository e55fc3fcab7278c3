"""Where a box will be: a Kalman filter with constant velocity for each box coordinate.

As in SORT (Bewley et al., ICIP 2016) and ByteTrack (arXiv 2110.06864), with two differences. Time is in
seconds, so frames may be dropped and come at any rate. The state is centre, width and height; with noises
that do not depend on each other, its 8x8 covariance falls apart into a 2x2 for each coordinate, which
are kept as arrays over all tracks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

# All relative to the size of the object, sqrt(width * height). Measured on composed videos at 15 and 5 Hz
# (docs/tracking.md): half or twice of each changes HOTA by less than a point.
_MEASURED = 0.08  # standard deviation of a coordinate of the network's boxes
_SPEED = np.array([2.0, 2.0, 0.5, 0.5])  # 1/s, standard deviation of a new track's unknown velocity
_UNREST = np.array([1.5, 1.5, 0.25, 0.25])  # s^-1.5, root of the spectral density of the acceleration


class BoxMotion:
    """The motion of n boxes; every array has one row a box and the columns centre x, y, width, height.

    position [px], velocity [px/s]; variances of both and their covariance.
    """

    def __init__(self) -> None:
        self._position, self._velocity = np.zeros((0, 4)), np.zeros((0, 4))
        self._var_position, self._covariance, self._var_velocity = (np.zeros((0, 4)) for _ in range(3))

    def boxes(self, ahead: float = 0.0) -> Float64Array:
        """(n, 4) x_min y_min x_max y_max in pixels, as expected `ahead` seconds after the last prediction."""
        position = self._position + self._velocity * ahead
        centre, half = position[:, :2], np.maximum(position[:, 2:], 1.0) / 2
        return np.concatenate([centre - half, centre + half], axis=1)

    def predict(self, seconds: float) -> None:
        """Move on in time: a step of the model with white acceleration noise."""
        density = (_UNREST * _size(self._position)) ** 2
        self._position += self._velocity * seconds
        self._var_position += seconds * (2 * self._covariance + seconds * self._var_velocity)
        self._var_position += density * seconds**3 / 3
        self._covariance += self._var_velocity * seconds + density * seconds**2 / 2
        self._var_velocity += density * seconds

    def correct(self, rows: NDArray[np.intp], boxes: Float64Array) -> None:
        """Take over the boxes (k, 4) xyxy, in which the tracks `rows` (k,) were seen."""
        seen = _centred(boxes)
        noise = (_MEASURED * _size(seen)) ** 2
        total = self._var_position[rows] + noise
        gain, speed_gain = self._var_position[rows] / total, self._covariance[rows] / total
        error = seen - self._position[rows]
        self._position[rows] += gain * error
        self._velocity[rows] += speed_gain * error
        self._var_velocity[rows] -= speed_gain * self._covariance[rows]
        self._covariance[rows] *= 1 - gain
        self._var_position[rows] *= 1 - gain

    def append(self, boxes: Float64Array) -> None:
        """Start with boxes (k, 4) xyxy, at rest."""
        seen = _centred(boxes)
        size = _size(seen)
        none = np.zeros_like(seen)
        self._position = np.concatenate([self._position, seen])
        self._velocity = np.concatenate([self._velocity, none])
        self._var_position = np.concatenate([self._var_position, none + (_MEASURED * size) ** 2])
        self._covariance = np.concatenate([self._covariance, none])
        self._var_velocity = np.concatenate([self._var_velocity, (_SPEED * size) ** 2])

    def keep(self, rows: NDArray[np.intp]) -> None:
        """Forget all but `rows`."""
        self._position, self._velocity = self._position[rows], self._velocity[rows]
        self._var_position, self._covariance = self._var_position[rows], self._covariance[rows]
        self._var_velocity = self._var_velocity[rows]


def _centred(boxes: Float64Array) -> Float64Array:
    """(n, 4) xyxy as centre x, y, width, height."""
    low, high = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=1)


def _size(centred: Float64Array) -> Float64Array:
    """(n, 1) pixels."""
    size: Float64Array = np.sqrt(np.maximum(centred[:, 2:], 1.0).prod(axis=1, keepdims=True))
    return size
