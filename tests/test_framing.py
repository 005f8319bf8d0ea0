"""What a phase network is shown of a pattern, against patterns that are known everywhere."""

import numpy as np
import pytest

from braggd.errors import FramingError
from braggd.framing import EDGE, Framing, centre_of, extent, framing_of

SHAPE = (48, 60, 54)


def box_pattern(shape, widths, peak=(0.0, 0.0, 0.0)):
    """Photons of a box of that many voxels, its peak off the array's middle."""
    lines = []
    for n, width, off in zip(shape, widths, peak, strict=True):
        k = np.arange(n) - n // 2 - off
        x = np.arange(width) - (width - 1) / 2
        lines.append(np.abs(np.exp(-2j * np.pi / n * np.outer(k, x)).sum(axis=1)) ** 2)
    counts = lines[0][:, None, None] * lines[1][:, None] * lines[2]
    return (1e5 * counts / counts.max()).astype(np.float32)


class Points:
    """A few point scatterers: their wave is known at any place of reciprocal space."""

    def __init__(self, reach):
        rng = np.random.default_rng(2)
        self.places = rng.uniform(-1, 1, (7, 3)) * reach
        self.weights = rng.uniform(0.5, 1, 7) * np.exp(1j * rng.uniform(-3, 3, 7))

    def wave(self, axes):
        """axes: places along z, y, x, cycles per voxel."""
        z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
        waves = (
            weight * np.exp(-2j * np.pi * (z * a + y * b + x * c))
            for weight, (a, b, c) in zip(self.weights, self.places, strict=True)
        )
        return sum(waves)


@pytest.mark.parametrize("peak", [(0.0, 0.0, 0.0), (3.0, -4.0, 2.5)])
def test_the_autocorrelation_tells_the_width_of_a_box(peak):
    counts = box_pattern(SHAPE, (9, 14, 11), peak)
    assert extent(counts, centre_of(counts)) == pytest.approx((9, 14, 11), abs=1.5)


def test_every_crystal_fills_the_same_share_of_what_the_network_sees():
    counts = box_pattern(SHAPE, (9, 14, 11))
    framing = framing_of(counts)
    small, _ = framing.seen(counts, np.ones(SHAPE, bool))
    correlated = np.abs(np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(small))))
    for axis in range(3):
        profile = correlated.max(axis=tuple(a for a in range(3) if a != axis))
        width = np.abs(np.arange(EDGE) - EDGE // 2)[profile > 0.05 * profile.max()].max() + 1
        assert EDGE / width == pytest.approx(2.3, abs=0.45)


def test_resampling_gives_the_pattern_at_the_places_between():
    reach = np.array([4.0, 6.0, 5.0])
    points = Points(reach / 2)
    counts = np.abs(points.wave([(np.arange(n) - n // 2) / n for n in SHAPE])) ** 2
    step = tuple(n / (2.6 * r) for n, r in zip(SHAPE, 2 * reach, strict=True))
    framing = Framing(SHAPE, (23.7, 30.2, 27.4), step)
    places = [
        (c + (np.arange(EDGE) - EDGE // 2) * s - n // 2) / n
        for c, s, n in zip(framing.centre, step, SHAPE, strict=True)
    ]
    wanted = np.abs(points.wave(places)) ** 2 * np.prod(step)
    seen, measured = framing.seen(counts.astype(np.float32), np.ones(SHAPE, bool))
    there = measured > 0
    assert there.mean() > 0.2
    # a pattern that ends at the array's edge is not periodic: a little is lost there
    inner = np.zeros_like(there)
    inner[10:22, 10:22, 10:22] = True
    assert np.abs(seen - wanted)[there & inner].max() < 0.05 * wanted.max()
    assert not seen[~there].any()


def test_the_wave_comes_back_to_the_pattern_s_own_voxels():
    framing = Framing(SHAPE, (23.7, 30.2, 27.4), (1.3, 1.6, 1.4))
    points = Points(np.array([5.0, 5.0, 5.0]))
    points.places = np.round(points.places)  # on the network's own grid in real space
    small = points.wave([(np.arange(EDGE) - EDGE // 2) / EDGE] * 3)
    wave = framing.on_pattern(small)
    at = [(np.arange(n) - c) / s for n, c, s in zip(SHAPE, framing.centre, framing.step, strict=True)]
    wanted = points.wave([line / EDGE for line in at])
    known = wave != 0
    assert 0.2 < known.mean() < 1
    np.testing.assert_allclose(wave[known], wanted[known], atol=1e-3)


def test_a_masked_voxel_is_not_shown():
    counts = box_pattern(SHAPE, (9, 14, 11))
    valid = np.ones(SHAPE, bool)
    valid[:, 34:40] = False
    framing = framing_of(counts)
    loud = np.where(valid, counts, 1e6).astype(np.float32)
    seen, measured = framing.seen(counts, valid)
    assert 0 < measured.mean() < 1
    assert not seen[measured == 0].any()
    middle = framing.centre[1] + (np.arange(EDGE) - EDGE // 2) * framing.step[1]
    assert not measured[:, (middle > 35) & (middle < 38)].any()
    assert not framing.seen(loud, valid)[0][measured == 0].any()


@pytest.mark.parametrize("level", [0.0, np.nan])
def test_a_dark_or_broken_pattern_is_refused(level):
    with pytest.raises(FramingError, match="nothing to see"):
        framing_of(np.full(SHAPE, level, np.float32))


def test_a_pattern_without_any_extent_is_refused():
    spread = np.full(SHAPE, 50.0, np.float32)
    with pytest.raises(FramingError, match="no fringes"):
        framing_of(spread)
