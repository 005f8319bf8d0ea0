"""`braggd bench compare` judges every engine's object by the same measure."""

import os
import subprocess
import sys

import numpy as np
import pytest

from braggd.bench_compare import evaluate, repeatability
from braggd.bench_engines import ENGINES, Task, point_spread, problem_for_pynx
from braggd.errors import BraggdError
from braggd.peers.interpreter import PYNX, locate
from braggd.peers.pynx_exchange import Found, read_result
from braggd.phasing import fourier
from braggd.phasing.align import twin_of
from braggd.phasing.free import free_voxels
from braggd.phasing.projections import blur, gaussian
from braggd.phasing.support import first_support

SHAPE = (32, 32, 32)
WIDTHS = (0.5, 0.4, 0.6)


def crystal(seed=0):
    """A wedge with a smooth phase, and its coherent intensity with about 1e6 photons."""
    z, y, x = np.meshgrid(*(np.arange(n) - n // 2 for n in SHAPE), indexing="ij")
    support = (abs(z) < 5) & (abs(y) < 4) & (abs(x + seed) < 6) & (z + y + x < 6)
    density = support * np.exp(1j * (0.08 * z * x + 0.02 * y * y + 0.1 * seed * y))
    density *= np.sqrt(1e6 / density.size / np.sum(np.abs(density) ** 2))
    return density.astype(np.complex64), support, intensity(density)


def gaussian_psf():
    return point_spread(tuple(gaussian(width) for width in WIDTHS), SHAPE)


def intensity(density):
    return (np.abs(np.fft.fftshift(np.fft.fftn(density))) ** 2).astype(np.float32)


def found(density, support, psf=None):
    return Found(density=density, support=support, psf=psf, seconds=0.0)


def masks():
    valid = np.ones(SHAPE, bool)
    valid[5] = False
    return valid, free_voxels(valid, seed=3)


def task(seed=0):
    counts = np.random.default_rng(1).poisson(crystal(seed)[2]).astype(np.float32)
    valid, free = masks()
    support = fourier.centre(first_support(fourier.corner(np.sqrt(counts)))[0])
    counted = {"HIO": 30, "RAAR": 30, "ER": 10}
    return Task(counts=np.where(valid, counts, 0), valid=valid, free=free, support=support, counted=counted)


def same(one, other):
    for name in one.__slots__:
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-4, abs=1e-6), name


def test_an_object_that_comes_through_pynx_files_is_judged_as_the_same_object_is(tmp_path):
    density, support, counts = crystal()
    noisy = np.random.default_rng(1).poisson(counts).astype(np.float32)
    valid, free = masks()
    path, psf = tmp_path / "result.npz", gaussian_psf()
    np.savez(
        path,
        density=np.fft.ifftshift(density) * np.sqrt(density.size),  # PyNX's transforms are orthonormal
        support=np.fft.ifftshift(support).astype(np.int8),
        psf=17 * np.fft.rfftn(np.fft.ifftshift(psf)),
        seconds=1.0,
        fault="",
        llk=0.0,
        free_llk=0.0,
    )
    direct = evaluate(found(density, support, psf), noisy, valid, free)
    same(evaluate(read_result(path), noisy, valid, free), direct)
    assert direct.coherent_llk < 0.9 * direct.llk  # the blur was not in the counts, and is seen to be wrong


def test_the_truth_explains_its_own_counts_perfectly_with_the_blur_that_made_them():
    density, support, coherent = crystal()
    counts = np.empty_like(coherent)
    blur(coherent, counts, WIDTHS)
    score = evaluate(found(density, support, gaussian_psf()), counts, *masks())
    assert abs(score.llk) < 1e-4
    assert abs(score.free_llk) < 1e-4
    assert score.coherent_llk > 100 * abs(score.llk)
    assert score.support_voxels == support.sum()


def test_scale_shift_twin_and_what_is_outside_the_support_do_not_matter():
    density, support, coherent = crystal()
    counts = np.random.default_rng(1).poisson(coherent).astype(np.float32)
    plain = evaluate(found(density, support), counts, *masks())
    moved = [np.roll(array, (3, -2, 5), axis=(0, 1, 2)) for array in (density, support)]
    same(evaluate(found(1e3 * moved[0], moved[1]), counts, *masks()), plain)
    same(evaluate(found(twin_of(density), np.abs(twin_of(density)) > 0), counts, *masks()), plain)
    same(evaluate(found(density + ~support, support), counts, *masks()), plain)


def test_free_counts_are_judged_alone_and_reach_no_engine():
    density, support, coherent = crystal()
    valid, free = masks()
    counts = np.random.default_rng(1).poisson(coherent).astype(np.float32)
    spoiled = np.where(free, counts + 1000, counts)
    before, after = (evaluate(found(density, support), seen, valid, free) for seen in (counts, spoiled))
    assert after.llk == pytest.approx(before.llk, rel=1e-9)  # threads add up in any order
    assert after.free_llk > before.free_llk + 100

    given = task()
    assert not given.amplitude()[free].any()
    assert not given.fitted()[free].any()
    problem = problem_for_pynx(given, 1, psf=False)
    assert (np.fft.fftshift(problem["free"]) == free).all()
    assert (np.fft.fftshift(problem["mask"]) == ~valid).all()


def test_engines_of_one_seed_begin_with_one_object_inside_the_support():
    given = task()
    start = given.start(4)
    assert (np.fft.fftshift(problem_for_pynx(given, 4, psf=True)["start"]) == start).all()
    assert ((start != 0) == given.support).all()
    assert not (given.start(5) == start).all()


def test_runs_that_differ_by_trivial_symmetries_repeat_perfectly_and_others_do_not():
    density, other = crystal()[0], crystal(5)[0]
    copies = [density, np.roll(1j * density, (2, 0, -3), axis=(0, 1, 2)), twin_of(density)]
    assert min(repeatability(copies)) > 0.999
    assert len(repeatability(copies)) == 3
    assert repeatability([density, other])[0] < 0.95


@pytest.mark.parametrize("name", ["solver", "solver-psf", "braggd"])
def test_each_engine_of_braggd_explains_the_counts_better_than_its_beginning(name):
    given = task()
    begun = evaluate(found(given.start(1), given.support), given.counts, given.valid, given.free)
    score = evaluate(ENGINES[name](None, None)(given, 1), given.counts, given.valid, given.free)
    assert score.llk < 0.3 * begun.llk
    assert score.free_llk < 0.5 * begun.free_llk


@pytest.mark.skipif(locate(PYNX) is None, reason="PyNX is not installed")
@pytest.mark.parametrize("name", ["pynx", "pynx-psf"])
def test_pynx_says_the_same_likelihood_of_its_object_as_is_measured_here(tmp_path, name):
    given = task()
    result = ENGINES[name](locate(PYNX), tmp_path)(given, 1)
    assert result.fault == ""
    assert (result.psf is not None) == (name == "pynx-psf")
    score = evaluate(result, given.counts, given.valid, given.free)
    fitted, free = given.fitted().sum(), given.free.sum()
    assert score.llk == pytest.approx(result.llk / fitted, rel=0.1)  # PyNX does not bring it to the best scale
    assert score.free_llk == pytest.approx(result.free_llk / free, rel=0.2)
    again = ENGINES[name](locate(PYNX), tmp_path)(given, 1)
    assert len(list(tmp_path.iterdir())) == 1
    assert again.seconds == result.seconds


def test_a_damaged_result_is_named(tmp_path):
    path = tmp_path / "pynx-0.npz"
    np.savez(path, density=1)
    with pytest.raises(BraggdError, match=r"pynx-0\.npz"):
        read_result(path)


def compare(*arguments):
    command = [sys.executable, "-m", "braggd", "bench", "compare", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def test_the_table_has_a_row_for_every_run_and_a_line_for_every_engine(tmp_path):
    scan = tmp_path / "scan.npz"
    np.savez(scan, data=task().counts.astype(np.int32))
    options = ("--edge", 32, "--iterations", 0.02, "--runs", 2, "--engine", "solver", "--engine", "braggd")
    done = compare(scan, *options)
    assert done.returncode == 0, done.stderr
    for row in (" solver 1 ", " solver 2 ", " braggd 1 ", " braggd 2 "):
        assert done.stdout.count(row) == 1
    assert "braggd: best free LLK" in done.stdout
    assert "correlate by" in done.stdout
    assert "8*HIO + 20*RAAR + 6*ER" in done.stdout


def test_an_unknown_engine_is_named():
    done = compare("--engine", "magic")
    assert done.returncode == 1
    assert "'magic'" in done.stderr
    assert "Traceback" not in done.stderr
