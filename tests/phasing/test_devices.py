"""What runs on a GPU asks for every transfer and ends as on the CPU; on an imitation, since most machines have none."""

import logging
import sys

import msgspec
import numpy as np
import pytest

from braggd.check import faults
from braggd.config import Config, PhasingConfig, TangoConfig
from braggd.phasing import arrays, fourier
from braggd.phasing.align import correlation
from braggd.phasing.ensemble import iterate
from braggd.phasing.recipe import parse
from braggd.phasing.retrieve import merge, retrieve, warm_up
from braggd.phasing.solver import Schedule, Solver
from braggd.phasing.support import LARGEST_SHARE, shrink_wrap
from tests.phasing import imitation


@pytest.fixture
def gpu(monkeypatch):
    imitation.install(monkeypatch)
    return "cuda"


@pytest.fixture
def pattern(crystals):
    density, support = crystals.faceted(24, radius=5.5, phase=1.0)
    amplitude = np.sqrt(crystals.noisy_counts(density, 1e4)).astype(np.float32)
    valid = np.ones(amplitude.shape, bool)
    valid[:, 14] = False
    return amplitude, valid, density, support


def test_nothing_mixes_by_itself(gpu):
    device = arrays.to_device(np.ones(3), gpu)
    with pytest.raises(TypeError, match="call to_device"):
        device + np.ones(3)
    with pytest.raises(TypeError, match="call to_host"):
        np.asarray(device)


@pytest.mark.parametrize("options", [{}, {"relative": "max"}, {"border": 2}, {"most": 40}])
def test_a_support_is_found_where_the_object_is(gpu, pattern, options):
    _, _, density, support = pattern
    modulus, before = np.abs(density).astype(np.float32), np.roll(support, 2, 0)
    here = shrink_wrap(modulus.copy(), (0.8,) * 3, 0.3, before, **options)
    there = shrink_wrap(arrays.to_device(modulus, gpu), (0.8,) * 3, 0.3, arrays.to_device(before, gpu), **options)
    assert 0 < here.mean() < LARGEST_SHARE
    assert np.count_nonzero(arrays.to_host(there) != here) <= 4  # of those as bright as the level, rounding decides


@pytest.mark.parametrize(
    "recipe",
    ["4*HIO + 4*RAAR + 4*ER", "4*DETWIN + 4*HIO", "4*DM + 4*CF + 4*SF + 3*ML"],
    ids=["usual", "twin", "others"],
)
def test_a_retrieval_takes_the_cpus_way(gpu, pattern, recipe):
    amplitude, valid, _, _ = pattern
    config = PhasingConfig(
        recipe=recipe,
        quick="4*HIO + 2*ER",
        seeded=recipe,
        refine="3*RAAR + 3*ER",
        prolong="4*RAAR",
        starts=2,
        support_every=3,
        phase_limit=1.5,
        device="cpu",
    )
    here = retrieve(amplitude, valid, config, guess=amplitude)
    there = retrieve(amplitude, valid, msgspec.structs.replace(config, device=gpu), guess=amplitude)
    assert not there.warnings or there.warnings == here.warnings
    assert isinstance(there.density, np.ndarray)
    assert correlation(here.density, there.density) > 0.99
    assert there.metrics["llk"] == pytest.approx(here.metrics["llk"], rel=0.05)
    merged = merge(there, msgspec.structs.replace(config, device=gpu))
    assert isinstance(merged.density, np.ndarray)


def solver(pattern):
    amplitude, _, _, support = pattern
    start = fourier.corner(np.ones(amplitude.shape, np.complex64))
    return Solver(fourier.corner(amplitude), start, fourier.corner(support), None)


def test_a_gpu_that_fails_is_left_alone_and_nothing_is_lost(gpu, pattern, caplog, monkeypatch):
    truth, tried = solver(pattern), solver(pattern)
    truth.run(parse("6*HIO"), Schedule(support_every=0), lambda _: None)

    def check(done):
        if done == 4 and not isinstance(tried.density, np.ndarray):
            raise MemoryError("out of memory to allocate 12 bytes")

    with caplog.at_level(logging.WARNING):
        iterate(tried, parse("6*HIO"), Schedule(support_every=0), check, gpu)
    np.testing.assert_allclose(tried.density, truth.density, atol=1e-3)
    sentence = "phasing runs on the CPU: the GPU failed: out of memory to allocate 12 bytes"
    assert sentence in caplog.text
    assert arrays.lesser("auto") == arrays.lesser("cuda") == sentence
    assert not arrays.lesser("cpu")
    assert arrays.usable("cuda") == "cpu"


def test_what_stops_a_run_is_no_failure_of_the_gpu(gpu, pattern):
    class Stopped(Exception):  # noqa: N818
        pass

    def check(_):
        raise Stopped

    with pytest.raises(Stopped):
        iterate(solver(pattern), parse("2*ER"), Schedule(), check, gpu)
    assert arrays.usable("auto") == gpu


def test_a_gpu_that_miscalculates_is_found_out_before_the_first_scan(gpu, monkeypatch):
    config = PhasingConfig(shape=(16, 16, 16))
    warm_up(config)
    assert arrays.usable("auto") == gpu
    monkeypatch.setattr(sys.modules["braggd.phasing.cuda"], "project_modulus", lambda wave, target: None)
    warm_up(config)
    assert arrays.lesser("auto") == "phasing runs on the CPU: the GPU does not give what the CPU gives"


def test_a_gpu_that_is_asked_for_and_missing_is_told_by_check(gpu, monkeypatch):
    config = Config(phasing=PhasingConfig(device="cuda"), tango=TangoConfig(device="off"))
    assert not [fault for fault in faults(config) if "[phasing]" in fault]
    monkeypatch.setattr(arrays, "_fault", lambda: "CuPy is not installed (the extra `gpu`)")
    assert (
        "[phasing] device: phasing runs on the CPU: CuPy is not installed (the extra `gpu`); set it to cpu or auto"
        in faults(config)
    )
