"""The lower-left convex hull of an error curve."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_FEW_POINTS = 64


def lower_left_hull(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the indices of the corners of the lower-left convex hull, in order.

    Args:
        x: (points,) not decreasing.
        y: (points,) not increasing. The first and the last point are always corners.
    """
    kept = np.arange(len(x))
    # A point on or above the line between two others is no corner, so all that lie so between their present neighbours
    # can go at once. This leaves few points after a few sweeps; the exact stack below finishes the rest.
    while len(kept) > _FEW_POINTS:
        px, py = x[kept], y[kept]
        inner = _turns_left(px[:-2], py[:-2], px[1:-1], py[1:-1], px[2:], py[2:])
        if np.count_nonzero(inner) > 0.98 * len(inner):
            break
        kept = kept[np.concatenate(([True], inner, [True]))]
    px, py = x[kept], y[kept]
    corners: list[int] = []
    for point in range(len(kept)):
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            if _turns_left(px[a], py[a], px[b], py[b], px[point], py[point]):
                break
            corners.pop()
        corners.append(point)
    return kept[corners]


def _turns_left(ax: Any, ay: Any, bx: Any, by: Any, cx: Any, cy: Any) -> Any:
    """Return whether the way a -> b -> c turns left; numbers or arrays of them."""
    return (bx - ax) * (cy - ay) > (by - ay) * (cx - ax)
