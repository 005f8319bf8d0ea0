"""From a scan to its stages."""

import msgspec
import numpy as np
import pytest

from braggd.config import Config, InferenceConfig, PhasingConfig
from braggd.data import Geometry, Ledger, Scan, Stage
from braggd.errors import PhasingError
from braggd.pipeline import reconstruct

RECIPE = "300*HIO + 100*RAAR + 50*ER"
PLAIN = InferenceConfig(phase_model="")
QUICK = Config(inference=PLAIN, phasing=PhasingConfig(recipe=RECIPE, refine="30*RAAR + 30*ER", prolong="", starts=3))


@pytest.fixture(scope="module")
def scan():
    edge, random = 40, np.random.default_rng(1)
    z, y, x = np.meshgrid(*[np.arange(edge) - edge // 2] * 3, indexing="ij")
    crystal = (abs(z) < 6) & (abs(y + 0.3 * z) < 5) & (x + y < 7) & (x - 0.4 * y > -6)
    wave = np.fft.fftshift(np.fft.fftn(crystal * np.exp(0.03j * (z * x + y * y))))
    intensity = np.abs(wave) ** 2
    counts = random.poisson(intensity * (1e5 / intensity.max())).astype(np.float32)
    return Scan(
        scan_id="one",
        counts=counts,
        valid=np.ones(counts.shape, bool),
        geometry=Geometry(),
        ledger=Ledger(expected=edge, used=edge),
    )


def test_a_scan_comes_refined_and_then_final(scan):
    refined, final = reconstruct(scan, QUICK)
    assert [refined.stage, final.stage] == [Stage.REFINED, Stage.FINAL]
    assert {"llk", "free_llk", "twin_overlap"} <= set(refined.metrics)
    assert {"merged", "repeatability", "mode_share"} <= set(final.metrics)
    assert final.provenance["start"]["origin"] == "random"
    alone = msgspec.structs.replace(QUICK, phasing=msgspec.structs.replace(QUICK.phasing, final=False))
    assert [r.stage for r in reconstruct(scan, alone)] == [Stage.REFINED]


def test_the_final_stage_gives_way_to_the_next_scan(scan):
    waits = []
    stages = []
    for reconstruction in reconstruct(scan, QUICK, hurry=lambda: bool(waits)):
        stages.append(reconstruction.stage)
        waits.append("another")
    assert stages == [Stage.REFINED]


def test_an_abort_in_the_final_stage_is_an_error(scan):
    asked = []
    stages = reconstruct(scan, QUICK, stop=lambda: bool(asked))
    asked.append(next(stages).stage)
    with pytest.raises(PhasingError, match="stopped"):
        next(stages)
    assert asked == [Stage.REFINED]


def test_the_network_s_object_comes_first_and_is_one_of_the_starts(scan):
    stages = list(reconstruct(scan, msgspec.structs.replace(QUICK, inference=InferenceConfig())))
    dl, refined, final = stages
    assert [r.stage for r in stages] == [Stage.DL, Stage.REFINED, Stage.FINAL]
    assert {"llk", "free_llk", "misfit", "support_voxels"} <= set(dl.metrics)
    assert dl.density.shape == refined.density.shape
    assert dl.provenance["start"]["origin"] == "network"
    assert len(dl.provenance["prediction"]["model_sha256"]) == 64
    assert refined.metrics["from_network"] in (0.0, 1.0)
    assert (refined.provenance["start"]["origin"] == "network") == bool(refined.metrics["from_network"])
    assert final.metrics["starts"] == QUICK.phasing.starts + 1
    assert refined.metrics["free_llk"] <= dl.metrics["free_llk"]


def test_without_its_network_the_scan_is_phased_all_the_same_and_says_so(scan, tmp_path):
    broken = InferenceConfig(phase_model=str(tmp_path / "none.onnx"))
    first = next(reconstruct(scan, msgspec.structs.replace(QUICK, inference=broken)))
    assert first.stage is Stage.REFINED
    assert "none.onnx" in first.degraded["prediction"]
    assert any("phasing starts at random" in warning for warning in first.warnings)
