"""Patterns unlike those that phase networks learn from: without fringes, of two crystals, or with a split peak."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from braggd.bright import gaussian, smoothed
from braggd.framing import Framing

Floats = NDArray[np.float32]

# Where fringes can be seen, photons per voxel; a pattern with more such voxels than that should show some.
_LIT, _ENOUGH = 8.0, 300
_MAXIMA = 3  # beside the peak: fewer are none
# A piece of the autocorrelation, apart from its middle, above that share of the middle.
_APART, _PIECE = 0.06, 20
# A second peak of that height, with less than that between them, so many fringes away.
_SECOND, _VALLEY, _AWAY = 0.1, 0.02, 5.0


def oddities(counts: Floats, framing: Framing) -> list[str]:
    """What is odd about a pattern, as parts of a sentence; empty where nothing is.

    counts: (z, y, x) photons without gaps
    """
    found = []
    if not has_fringes(counts, framing):
        found.append("the pattern has no fringes")
    if is_twofold(counts, framing):
        found.append("the pattern looks like that of two crystals")
    if is_split(counts, framing):
        found.append("the peak is split")
    return found


def has_fringes(counts: Floats, framing: Framing) -> bool:
    """Whether there are maxima beside the peak, where the network looks; also where it is too dark to tell."""
    counts = counts[framing.window]
    smooth = ndimage.gaussian_filter(counts, [max(0.6, 0.4 * step) for step in framing.step])
    lit = smooth > _LIT
    if np.count_nonzero(lit) < _ENOUGH:
        return True
    # two of the network's voxels are about a fringe
    size = [2 * round(step) + 1 for step in framing.step]
    maxima = lit & (smooth == ndimage.maximum_filter(smooth, size))
    return bool(np.count_nonzero(maxima) > _MAXIMA)


def is_twofold(counts: Floats, framing: Framing) -> bool:
    """Whether the autocorrelation has pieces of its own, as only separate bodies make them."""
    moved = np.roll(counts, [-round(c) for c in framing.centre], (0, 1, 2))
    # the lags along x from 0 on: the others say the same
    correlated = np.abs(scipy.fft.fftshift(scipy.fft.rfftn(moved, workers=-1), (0, 1)))
    correlated = ndimage.uniform_filter(correlated, 3, mode=("wrap", "wrap", "mirror"))
    pieces, count = ndimage.label(correlated > _APART * correlated.max())
    if count < 2:
        return False
    middle = pieces[counts.shape[0] // 2, counts.shape[1] // 2, 0]
    sizes = np.bincount(pieces.ravel())
    return bool(any(sizes[piece] >= _PIECE for piece in range(1, count + 1) if piece != middle))


def is_split(counts: Floats, framing: Framing) -> bool:
    """Whether two peaks stand far apart with next to nothing between them."""
    smoother, reach = gaussian([0.6 * step for step in framing.step])
    _, smooth = smoothed(counts, smoother, _VALLEY, reach)
    pieces, count = ndimage.label(smooth > _VALLEY * smooth.max())
    if count < 2:
        return False
    bright = np.flatnonzero(pieces)
    order = bright[np.lexsort((smooth.ravel()[bright], pieces.ravel()[bright]))]
    highest = order[np.flatnonzero(np.diff(pieces.ravel()[order], append=count + 1))]  # of each piece
    tops = smooth.ravel()[highest]
    places = np.stack(np.unravel_index(highest, smooth.shape), axis=1).astype(np.float64)
    first = int(np.argmax(tops))
    far = np.linalg.norm((places - places[first]) / (2 * np.asarray(framing.step)), axis=1)
    return bool(np.any((tops > _SECOND * tops[first]) & (far > _AWAY)))
