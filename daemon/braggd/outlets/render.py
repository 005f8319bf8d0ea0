"""A shaded view of a volume's surface, cast ray by ray in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_LIGHT = (-0.55, 0.72, -0.62)
_STEP = 0.9
_SPARSE = 8


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class View:
    """Where one looks from, without perspective.

    azimuth_deg: about the upright axis y, 0 looks along the beam; elevation_deg: from above
    """

    azimuth_deg: float = -35.0
    elevation_deg: float = 24.0

    def axes(self) -> NDArray[np.float64]:
        """Rows: to the right, up, and away from the eye, each as (x, y, z)."""
        a, e = np.deg2rad([self.azimuth_deg, self.elevation_deg])
        away = np.array([np.sin(a) * np.cos(e), -np.sin(e), np.cos(a) * np.cos(e)])
        # Looked at along +z with y up, x of a right-handed frame points to the left.
        right = np.cross(away, [0.0, 1.0, 0.0])
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(right, away), away])


def shaded_surface(
    volume: NDArray[np.float32], level: float, colours: NDArray[np.float32], view: View, *, pixels: int = 640
) -> tuple[NDArray[np.float64], float]:
    """The surface where a volume reaches a level, lit from the upper left.

    volume: (z, y, x) float32, below the level at its edges; colours: (z, y, x, 3) float32, RGB of the surface
    pixels: width and height of the picture before its edges are softened, even

    Returns (pixels / 2, pixels / 2, 4) RGBA, the first row on top, alpha 0 where there is nothing; and half the width
    of the picture in voxels, which just holds the body.
    """
    axes = view.axes()
    frame = axes[:, ::-1]  # as array axes (z, y, x)
    body = np.argwhere(volume >= level)
    projected = body @ frame.T
    low, high = projected.min(axis=0) - 1.5, projected.max(axis=0) + 1.5
    half_width = float((high - low)[:2].max() / 2)
    span = ((np.arange(pixels) + 0.5) / pixels * 2 - 1) * half_width
    across, upward = np.meshgrid(span, -span)
    middle = (low + high) / 2
    starts = (middle[0] + across)[..., None] * frame[0] + (middle[1] + upward)[..., None] * frame[1]
    hit, places = _march(volume, level, starts.reshape(-1, 3), frame[2], (low[2], high[2]))

    softer = ndimage.gaussian_filter(volume, 0.8)
    normals = np.stack([_sample(slope, places) for slope in _slopes(softer)], -1)
    normals /= -np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    beneath = places - normals
    surface = np.stack([_sample(colours[..., channel], beneath) for channel in range(3)], -1)
    image = np.zeros((pixels * pixels, 4))
    image[hit] = np.column_stack([_lit(surface, normals, frame), np.ones(len(hit))])
    return _softened(image.reshape(pixels, pixels, 4)), half_width


def _lit(surface: NDArray[np.float64], normals: NDArray[np.float64], frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lambert's cosine, a little light from the eye, and a glint (Blinn's halfway vector)."""
    toward = np.array(_LIGHT) / np.linalg.norm(_LIGHT) @ frame
    halfway = toward - frame[2]
    diffuse = np.clip(normals @ toward, 0, 1)
    facing = np.clip(-normals @ frame[2], 0, 1)
    glint = np.clip(normals @ (halfway / np.linalg.norm(halfway)), 0, 1) ** 32
    lit = surface * (0.44 + 0.46 * diffuse + 0.24 * facing)[:, None] + 0.16 * glint[:, None]
    return np.asarray(np.clip(lit, 0, 1), np.float64)


def _march(
    volume: NDArray[np.float32],
    level: float,
    starts: NDArray[np.float64],
    direction: NDArray[np.float64],
    depths: tuple[float, float],
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Which rays meet the surface from outside, and where, to a fraction of a voxel."""
    active = np.flatnonzero(_may_hit(volume, level, starts, direction, depths))
    before = np.zeros(len(active))
    hits = [np.zeros(0, np.intp)]
    places = [np.zeros((0, 3))]
    for depth in np.arange(depths[0], depths[1] + _STEP, _STEP):
        value = _sample(volume, starts[active] + depth * direction)
        crossed = value >= level
        share = (value[crossed] - level) / np.maximum(value[crossed] - before[crossed], 1e-9)
        exact = depth - _STEP * np.clip(share, 0, 1)
        hits.append(active[crossed])
        places.append(starts[active[crossed]] + exact[:, None] * direction)
        active, before = active[~crossed], value[~crossed]
    return np.concatenate(hits), np.concatenate(places)


def _may_hit(
    volume: NDArray[np.float32],
    level: float,
    starts: NDArray[np.float64],
    direction: NDArray[np.float64],
    depths: tuple[float, float],
) -> NDArray[np.bool_]:
    """Rays worth following: the neighbourhoods of those of every eighth row and column that meet the body."""
    pixels = round(len(starts) ** 0.5)
    few = starts.reshape(pixels, pixels, 3)[::_SPARSE, ::_SPARSE]
    met = np.zeros(few.shape[:2], bool)
    for depth in np.arange(depths[0], depths[1], 1.0):
        met |= _sample(volume, (few + depth * direction).reshape(-1, 3)).reshape(met.shape) >= level
    near = ndimage.binary_dilation(met, np.ones((3, 3), bool), iterations=2)
    return np.kron(near, np.ones((_SPARSE, _SPARSE), bool))[:pixels, :pixels].ravel()


def _slopes(volume: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [np.asarray(np.gradient(volume, axis=axis), np.float32) for axis in range(3)]


def _sample(volume: NDArray[np.float32], places: NDArray[np.float64]) -> NDArray[np.float64]:
    sampled: NDArray[np.float64] = ndimage.map_coordinates(
        volume, places.T, output=np.float64, order=1, mode="constant", cval=0.0
    )
    return sampled


def _softened(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half as many pixels, edges averaged; colours weighted with alpha."""
    weighted = image.copy()
    weighted[..., :3] *= image[..., 3:]
    half = weighted.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2, 4).mean(axis=(1, 3))
    half[..., :3] /= np.maximum(half[..., 3:], 1e-6)
    return np.asarray(np.clip(half, 0, 1), np.float64)
