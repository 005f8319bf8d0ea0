"""Bodies in a periodic volume."""

import numpy as np


def ball(shape, radius, at):
    """Where a ball is, bool."""
    grid = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    offset = [(g - a + n // 2) % n - n // 2 for g, a, n in zip(grid, at, shape, strict=True)]
    return sum(o**2 for o in offset) <= radius**2
