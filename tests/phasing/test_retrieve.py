import msgspec
import numpy as np
import pytest

from braggd.config import PhasingConfig
from braggd.errors import PhasingError
from braggd.phasing import plain, projections
from braggd.phasing.align import accuracy, align
from braggd.phasing.retrieve import Seed, merge, retrieve, warm_up

SHORT = PhasingConfig(
    recipe="20*HIO + 10*ER", quick="20*HIO + 10*ER", seeded="10*ER", refine="10*ER", prolong="", starts=2
)
QUICK = PhasingConfig(
    recipe="250*HIO + 100*RAAR + 50*ER",
    quick="250*HIO + 100*RAAR + 50*ER",
    seeded="50*RAAR + 50*ER",
    refine="50*RAAR + 50*ER",
    prolong="",
    starts=4,
)


@pytest.fixture
def crystal(crystals):
    density, _ = crystals.faceted(48, radius=8.0, phase=1.5, seed=2)
    return density, crystals.noisy_counts(density, 1e5)


def everywhere(counts):
    return np.ones(counts.shape, bool)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_noisy_crystal_is_found_from_every_seed(crystal, crystals, seed):
    density, counts = crystal
    found = retrieve(np.sqrt(counts), everywhere(counts), msgspec.structs.replace(QUICK, seed=seed))
    assert accuracy(align(density, found.density).density, density) >= 95
    assert found.metrics["components"] == 1
    assert not found.warnings
    wave = np.abs(crystals.wave_of(found.density))
    assert np.corrcoef(wave.ravel(), np.sqrt(counts).ravel())[0, 1] > 0.995
    assert np.sum(wave**2) == pytest.approx(counts.sum(), rel=0.05)
    assert not found.density[~found.support].any()
    assert abs(np.angle(found.density.sum())) < 1e-3


def test_the_same_seed_gives_the_same_object(crystal):
    _, counts = crystal
    one, other = (retrieve(np.sqrt(counts), everywhere(counts), SHORT) for _ in range(2))
    assert align(one.density, other.density).correlation > 0.9999
    assert one.metrics["start"] == other.metrics["start"]


def test_starts_that_agree_are_merged_into_an_object_as_good_as_the_best(crystal):
    density, counts = crystal
    found = retrieve(np.sqrt(counts), everywhere(counts), QUICK)
    assert len(found.runs) == 2  # which agreed
    merged = merge(found, QUICK)
    assert len(merged.runs) == 5
    assert merged.metrics["merged"] >= 2
    assert merged.metrics["repeatability"] > 0.95
    assert merged.metrics["mode_share"] > 0.9
    assert merged.refined.quality.rank <= found.refined.quality.rank
    assert accuracy(align(density, merged.density).density, density) >= 95


def test_a_strongly_strained_crystal_is_found_from_one_start_by_evening_out_its_modulus(crystals):
    density, _ = crystals.faceted(48, radius=8.0, phase=9.0, seed=2)
    counts = crystals.noisy_counts(density, 1e5, seed=2)
    config = PhasingConfig(starts=1, coherence=False)
    found = retrieve(np.sqrt(counts), everywhere(counts), config)
    assert accuracy(align(density, found.density).density, density) >= 98  # without it, 85 and a free LLK of 33
    assert found.metrics["free_llk"] < 1.5


def test_a_good_seed_wins_and_a_bad_one_costs_nothing_but_time(crystal):
    density, counts = crystal
    config = msgspec.structs.replace(QUICK, starts=1, recipe="5*ER", quick="5*ER")
    scaled = density * np.sqrt(counts.sum() / density.size / np.sum(np.abs(density) ** 2))
    good = retrieve(np.sqrt(counts), everywhere(counts), config, seeds=[Seed(name="truth", density=scaled)])
    assert good.origin == "truth"
    assert accuracy(align(density, good.density).density, density) >= 95
    noise = np.random.default_rng(0).normal(size=density.shape).astype(np.complex64)
    spoiled = retrieve(np.sqrt(counts), everywhere(counts), QUICK, seeds=[Seed(name="noise", density=noise)])
    assert accuracy(align(density, spoiled.density).density, density) >= 95
    with pytest.raises(PhasingError, match="seed has the shape"):
        retrieve(np.sqrt(counts), everywhere(counts), SHORT, seeds=[Seed(name="small", density=density[1:])])


def test_an_object_that_does_not_explain_the_pattern_is_gone_on_with(crystals):
    density, _ = crystals.faceted(48, radius=8.0, phase=6.0, seed=5)
    counts = crystals.noisy_counts(density, 1e6)
    config = msgspec.structs.replace(QUICK, refine="20*ER", starts=1)
    doing = []
    short = retrieve(np.sqrt(counts), everywhere(counts), config)
    long = retrieve(
        np.sqrt(counts),
        everywhere(counts),
        msgspec.structs.replace(config, prolong="200*RAAR + 50*ER"),
        progress=lambda _, done: doing.append(done),
    )
    assert short.metrics["llk"] > 0.55
    assert "going on with the best start" in doing
    assert long.refined.quality.rank < short.refined.quality.rank
    assert doing.count("going on with the best start") <= 3 * 250


def test_the_phase_limit_keeps_the_phase_within_it(crystal):
    _, counts = crystal
    config = msgspec.structs.replace(SHORT, phase_limit=0.3)
    free, limited = (retrieve(np.sqrt(counts), everywhere(counts), c) for c in (SHORT, config))
    far = [np.mean(np.abs(np.angle(f.density[f.support & (f.density != 0)])) > 0.6) for f in (free, limited)]
    assert far[1] < 0.02 < far[0]


def test_a_gap_beside_the_peak_hardly_changes_the_crystal(crystal):
    density, counts = crystal
    valid = everywhere(counts)
    valid[:, 29:32] = valid[:, :, 29:32] = False  # a fringe wide
    amplitude = np.sqrt(counts)
    amplitude[~valid] = np.nan
    found = retrieve(amplitude, valid, QUICK)
    assert accuracy(align(density, found.density).density, density) >= 93
    seeded = retrieve(amplitude, valid, QUICK, guess=np.sqrt(counts))
    assert accuracy(align(density, seeded.density).density, density) >= 93


def test_a_guess_far_off_does_not_spoil_the_crystal(crystal):
    density, counts = crystal
    valid = everywhere(counts)
    valid[:, 29:32] = False
    found = retrieve(np.sqrt(counts), valid, QUICK, guess=np.where(valid, 0, 30).astype(np.float32))
    assert accuracy(align(density, found.density).density, density) >= 90


def test_retrieval_without_numba_finds_the_same_crystal(crystal, monkeypatch):
    density, counts = crystal
    monkeypatch.setattr(projections, "kernels", plain)
    found = retrieve(np.sqrt(counts), everywhere(counts), msgspec.structs.replace(QUICK, starts=1))
    assert accuracy(align(density, found.density).density, density) >= 95


def test_progress_runs_from_0_to_1_and_stop_ends_it(crystal):
    _, counts = crystal
    seen = []
    retrieve(np.sqrt(counts), everywhere(counts), SHORT, progress=lambda share, doing: seen.append((share, doing)))
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert shares[0] < 0.05
    assert shares[-1] == pytest.approx(1)
    doing = list(dict.fromkeys(doing for _, doing in seen))
    assert doing[0] == "start 1 of 16"
    assert doing[-1] == "refining the best start"
    with pytest.raises(PhasingError, match="stopped"):
        retrieve(np.sqrt(counts), everywhere(counts), SHORT, stop=lambda: True)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda a, v: (a, np.zeros_like(v)), "every voxel is masked"),
        (lambda a, v: (np.zeros_like(a), v), "only 0 photons"),
        (lambda a, v: (np.where(a == a.max(), np.nan, a), v), "NaN"),
        (lambda a, v: (a - 1, v), "negative"),
        (lambda a, v: (a, v[1:]), "mask has the shape"),
        (lambda a, v: (a[0], v[0]), "three axes"),
        (lambda a, v: (a[:0], v[:0]), "three axes"),
    ],
)
def test_what_cannot_be_phased_is_said_in_one_sentence(crystal, spoil, sentence):
    _, counts = crystal
    with pytest.raises(PhasingError, match=sentence):
        retrieve(*spoil(np.sqrt(counts), everywhere(counts)), SHORT)


def test_noise_without_an_object_is_reported():
    counts = np.random.default_rng(0).poisson(3.0, (32, 32, 32)).astype(np.float32)
    found = retrieve(np.sqrt(counts), everywhere(counts), SHORT)
    assert found.warnings
    assert np.isfinite(found.density).all()


def test_odd_and_oblong_volumes_are_phased(crystals):
    density, _ = crystals.faceted(48, radius=7.0, seed=4)
    counts = crystals.noisy_counts(density, 1e5)[3:44, 2:47]  # 41 x 45 x 48, the peak beside the middle
    found = retrieve(np.sqrt(counts), everywhere(counts), SHORT)
    assert found.density.shape == counts.shape


def test_warm_up_leaves_nothing_to_compile():
    warm_up(PhasingConfig(shape=(32, 32, 32)))
