import numpy as np
import pytest
import scipy.fft
from scipy import ndimage

from braggd.phasing import fourier, plain, projections
from braggd.phasing.align import accuracy, align
from braggd.phasing.recipe import parse
from braggd.phasing.solver import Schedule, Solver

FIXED = Schedule(support_every=0)


def random_wave(shape, seed=0):
    random = np.random.default_rng(seed)
    return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype(np.complex64)


def solve(crystals, density, support, recipe, target=None):
    """From random phases, with the true support."""
    target = fourier.corner(np.abs(crystals.wave_of(density)).astype(np.float32)) if target is None else target
    start = random_wave(density.shape, seed=3) * fourier.corner(support)
    solver = Solver(target, start, fourier.corner(support), None)
    solver.run(parse(recipe), FIXED, lambda _: None)
    solver.constrain()
    found = align(density, fourier.centre(solver.density)).density
    return accuracy(found, density)


@pytest.mark.parametrize("library", fourier.LIBRARIES)
@pytest.mark.parametrize("shape", [(16, 16, 16), (12, 20, 18), (15, 9, 7)])
def test_transforms_are_numpys(shape, library, monkeypatch):
    monkeypatch.setattr(fourier, "library", lambda _: library)
    wave = random_wave(shape)
    there, back = np.empty_like(wave), np.empty_like(wave)
    fourier.forward(wave, there)
    fourier.inverse(there, back)
    np.testing.assert_allclose(there, np.fft.fftn(wave), atol=1e-3)
    np.testing.assert_allclose(back, wave, atol=1e-5)
    fourier.forward(back, back)
    np.testing.assert_allclose(back, there, atol=1e-3)


@pytest.mark.parametrize("shape", [(16, 16, 16), (12, 20, 18), (15, 21, 27)])
@pytest.mark.parametrize("shift", [(0, 0, 0), (-2, -3, 4), (5, -1, -2)])
def test_lines_without_anything_need_no_transform(shape, shift):
    support = np.zeros(shape, bool)
    support[:5, :4, :6] = True
    support[2, 2, 2] = False
    support = np.roll(support, shift, (0, 1, 2))
    box = fourier.box_about(support)
    for place, at in zip(box, np.nonzero(support), strict=True):
        assert sorted(i for part in place for i in range(part.start, part.stop)) == sorted(set(at))
    wave = random_wave(shape)
    there = np.where(support, wave, 0).astype(np.complex64)
    fourier.forward(there, there, box)
    np.testing.assert_allclose(there, np.fft.fftn(np.where(support, wave, 0)), atol=1e-3)
    back = np.empty_like(wave)
    fourier.inverse(wave, back, box)
    np.testing.assert_allclose(back[support], np.fft.ifftn(wave)[support], atol=1e-5)


def test_a_box_that_saves_nothing_is_none():
    assert fourier.box_about(np.ones((8, 8, 8), bool)) is None
    assert fourier.box_about(np.zeros((8, 8, 8), bool)) is None
    slab = np.zeros((8, 8, 8), bool)
    slab[:2] = True
    assert fourier.box_about(slab) is None  # along the first axis all lines have something


def test_a_shape_keeps_its_library():
    chosen = fourier.library((104, 100, 100))
    assert chosen in fourier.LIBRARIES
    assert all(fourier.library((104, 100, 100)) == chosen for _ in range(3))
    assert fourier.library((16, 16, 16)) == next(iter(fourier.LIBRARIES))


def test_good_shapes_are_even_products_of_small_primes_that_fit():
    for size, good in zip((118, 180, 230, 128, 7, 2), fourier.good_shape((118, 180, 230, 128, 7, 2)), strict=True):
        assert good <= size
        assert good % 2 == 0
        assert scipy.fft.next_fast_len(good, real=False) == good
    assert fourier.good_shape((118, 180, 230)) == (108, 180, 216)


@pytest.mark.parametrize(
    ("recipe", "least"), [("400*ER", 99.0), ("150*HIO + 100*ER", 99.0), ("150*RAAR + 100*ER", 99.0)]
)
def test_every_algorithm_finds_a_known_crystal_in_its_support(crystals, recipe, least):
    density, support = crystals.faceted(32, radius=7.0, phase=1.0)
    assert solve(crystals, density, support, recipe) >= least


def test_masked_voxels_are_not_measured_zeros(crystals):
    density, support = crystals.faceted(32, radius=7.0, phase=1.0)
    amplitude = np.abs(crystals.wave_of(density)).astype(np.float32)
    valid = np.ones(amplitude.shape, bool)
    valid[:, :, 16] = valid[:, 19:21] = False
    bound = np.full_like(amplitude, amplitude.max())
    free = fourier.corner(projections.free_target(amplitude, valid, bound))
    zeroed = fourier.corner(np.where(valid, amplitude, 0))
    assert solve(crystals, density, support, "150*HIO + 100*ER", free) >= 99.0
    assert solve(crystals, density, support, "150*HIO + 100*ER", zeroed) < 95.0


@pytest.mark.skipif(projections.kernels is plain, reason="numba is not installed")
def test_compiled_and_plain_kernels_agree():
    from braggd.phasing import compiled

    shape = (12, 10, 14)
    random = np.random.default_rng(1)
    target = random.normal(1, 2, size=shape).astype(np.float32)  # negative: free
    target.flat[:5] = 0
    start = random_wave(shape)
    start.flat[3:9] = 0
    support = random.random(shape) < 0.3
    calculated = random.random(shape).astype(np.float32) * 4
    calculated.flat[:3] = 0

    def both(run):
        results = []
        for kernels in (compiled, plain):
            wave = start.copy()
            results.append((run(kernels, wave), wave))
        for one, other in zip(*results, strict=True):
            if one is not None:
                np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)

    both(lambda k, w: k.project_modulus(w.reshape(-1), target.reshape(-1)))
    both(lambda k, w: k.project_blurred(w.reshape(-1), target.reshape(-1), calculated.reshape(-1)))
    both(lambda k, w: k.clear(w.reshape(-1), support.reshape(-1)))
    both(lambda k, w: k.update(w.reshape(-1), start[::-1].copy().reshape(-1), support.reshape(-1), 0.9, -0.8))
    places, expected = np.array([0, 3, 50, 700]), np.array([1, 2, 0, 3], np.float32)
    both(lambda k, w: k.pull(w.reshape(-1), places, expected, 0.4))
    both(lambda k, w: k.strength(w.reshape(-1), support.reshape(-1)))
    both(lambda k, w: k.dot(w.reshape(-1), start[::-1].copy().reshape(-1)))
    both(lambda k, w: k.total(w.reshape(-1), support.reshape(-1)))
    both(lambda k, w: k.explained(target[:5].reshape(5, -1) ** 2, calculated[0].reshape(-1), np.arange(5.0)))
    both(lambda k, w: k.misfit(calculated.reshape(-1), target.reshape(-1)))

    def squared(kernels, wave):
        out = np.empty(shape, np.float32)
        kernels.square(wave.reshape(-1), out.reshape(-1))
        return out

    def blurred(kernels, wave):
        out = np.empty(shape, np.float32)
        one, three, seven = (np.hamming(n + 2)[1:-1].astype(np.float32) for n in (1, 3, 7))
        kernels.blur(calculated, out, three, one, seven)
        return out

    def within(kernels, wave):
        inside = np.empty(shape, bool)
        kernels.within(wave.reshape(-1), support.reshape(-1), 3 - 2j, 0.5, inside.reshape(-1))
        return inside

    both(squared)
    both(within)
    both(blurred)


def test_a_measured_voxel_gets_its_amplitude_and_a_free_one_stays_within_its_bound():
    wave = random_wave((8, 8, 8)) * 3
    before = wave.copy()
    target = np.full(wave.shape, 2.0, np.float32)
    target[:4] = -2.5
    projections.project_modulus(wave, target)
    np.testing.assert_allclose(np.abs(wave[4:]), 2, rtol=1e-5)
    np.testing.assert_allclose(np.angle(wave), np.angle(before), atol=1e-5)
    np.testing.assert_allclose(np.abs(wave[:4]), np.minimum(np.abs(before[:4]), 2.5), rtol=1e-5)


def test_the_pull_changes_the_modulus_of_some_voxels_and_no_phase():
    wave = random_wave((6, 7, 8))
    wave[0, 0, 1] = 0
    before = wave.copy()
    places = np.array([1, 9, 200])
    projections.pull(wave, places, np.array([5, 0, 2], np.float32), 0.3)
    untouched = np.ones(wave.size, bool)
    untouched[places] = False
    np.testing.assert_array_equal(wave.ravel()[untouched], before.ravel()[untouched])
    was = np.abs(before.ravel()[places])
    np.testing.assert_allclose(np.abs(wave.ravel()[places]), 0.7 * was + 0.3 * np.array([5, 0, 2]), rtol=1e-5)
    np.testing.assert_allclose(np.angle(wave.ravel()[places[1:]]), np.angle(before.ravel()[places[1:]]), atol=1e-5)


@pytest.mark.parametrize(("limit", "angle"), [(0.0, np.pi / 2), (0.7, 0.7), (2.5, 2.5), (np.pi, np.pi)])
def test_a_phase_limit_keeps_the_support_within_an_angle_of_the_mean_phase(limit, angle):
    wave = random_wave((8, 9, 10)) + np.complex64(0.4 * np.exp(2j))
    support = np.random.default_rng(2).random(wave.shape) < 0.5
    inside = projections.within_phase(wave, support, limit)
    away = np.abs(np.angle(wave * np.conj(wave[support].sum())))
    np.testing.assert_array_equal(inside, support & (away <= angle))
    assert inside.sum() > 0.2 * support.sum()


def test_a_convolution_is_periodic_and_separable():
    volume = np.random.default_rng(0).random((7, 6, 8)).astype(np.float32)
    kernels = tuple(np.array(k, np.float32) for k in ([1], [0.2, 0.6, 0.2], [0.1, 0.1, 0.6, 0.1, 0.1]))
    out = np.empty_like(volume)
    projections.convolve(volume, out, kernels)
    truth = volume
    for axis, kernel in enumerate(kernels):
        truth = sum(w * np.roll(truth, s - kernel.size // 2, axis) for s, w in enumerate(kernel))
    np.testing.assert_allclose(out, truth, rtol=1e-5)


def test_blur_is_a_periodic_gaussian():
    volume = np.random.default_rng(0).random((20, 18, 16)).astype(np.float32)
    out = np.empty_like(volume)
    widths = (0.5, 1.3, 0.8)
    projections.blur(volume, out, widths)
    np.testing.assert_allclose(out, ndimage.gaussian_filter(volume, widths, mode="wrap", truncate=3.2), atol=2e-3)
    np.testing.assert_allclose(out.sum(), volume.sum(), rtol=1e-5)


def test_the_true_intensity_is_the_likeliest(crystals):
    density, _ = crystals.faceted(32, radius=7.0)
    counts = crystals.noisy_counts(density, 1e5)
    truth = np.abs(crystals.wave_of(density)) ** 2
    truth = (truth * (1e5 / truth.max())).astype(np.float32)
    amplitude = np.sqrt(counts)
    best, _ = projections.misfit(truth, amplitude)
    for wrong in (truth * 1.02, truth * 0.98, truth + 0.05, np.roll(truth, 1, 0)):
        assert projections.misfit(wrong.astype(np.float32), amplitude)[0] > best
    hidden = np.where(np.arange(32) < 16, amplitude, -1).astype(np.float32)
    wild = truth.copy()
    wild[..., 16:] *= 5
    assert projections.misfit(wild, hidden) == pytest.approx(projections.misfit(truth, hidden))
