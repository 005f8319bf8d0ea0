"""Networks that predict phases: shapes, sizes, that each can be trained, and that ours resumes and is exported."""

import json
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from braggd.config import InferenceConfig  # noqa: E402
from braggd.inference.phase import predict  # noqa: E402
from braggd_models.errors import TrainingError  # noqa: E402
from braggd_models.gaps.thesis import count  # noqa: E402
from braggd_models.phasing import literature, nets, patches, rivals, rspnets, train  # noqa: E402
from braggd_models.phasing.crystals import EDGE, Ranges, draw  # noqa: E402
from braggd_models.phasing.export import export, export_run  # noqa: E402
from braggd_models.phasing.graph import Graph  # noqa: E402
from braggd_models.phasing.layers import fold, unfold  # noqa: E402
from braggd_models.phasing.nets import NETS  # noqa: E402
from braggd_models.phasing.pool import Pool  # noqa: E402
from braggd_models.phasing.seednet import BOX, Data, SeedNet  # noqa: E402
from braggd_models.simulate.dataset import random_crystal  # noqa: E402
from braggd_models.training import Plan  # noqa: E402

SMALL = {
    "seed": (lambda: SeedNet((8, 16), steps=2), EDGE),
    "rsp-2d": (lambda: rspnets.RspNet(2, (4, 8), 8), 16),
    "rsp-2d-mse": (lambda: rspnets.RspNet(2, (4, 8), 8), 16),
    "rsp-2d-low": (lambda: rspnets.RspNet(2, (4, 8), 8), 16),
    "rsp-2d-low-mse": (lambda: rspnets.RspNet(2, (4, 8), 8), 16),
    "rsp-3d": (lambda: rspnets.RspNet(3, (4, 8), 8, ((3, 2, 1, 1),)), 16),
    "rsp-3d-mse": (lambda: rspnets.RspNet(3, (4, 8), 8, ((3, 2, 1, 1),)), 16),
    "patch-centre": (lambda: rspnets.RspNet(3, (4, 8), 8), 64),
    "patch-outer": (lambda: rspnets.RspNet(3, (4, 8), 8, inputs=3), 64),
    "two-decoders": (lambda: literature.TwoDecoders((4, 8)), 16),
    "complex": (lambda: literature.ComplexUNet((4, 8)), 16),
}


def stirred(net):
    """The second layer of a residual block begins at 0, and would hide the first."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return net.eval()


@pytest.mark.parametrize(
    ("build", "millions"),
    [
        (rspnets.high_strain, 27.5),
        (rspnets.volume, 161.2),
        (rspnets.centre_patch, 3.4),
        (rspnets.outer_patch, 3.4),
        (literature.ComplexUNet, 36.0),
        (literature.TwoDecoders, 10.5),
        (SeedNet, 7.58),
    ],
)
def test_networks_have_the_parameters_that_they_are_said_to_have(build, millions):
    with torch.device("meta"):
        assert count(build()) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize("name", list(NETS))
def test_every_network_takes_a_step_down_its_loss(name, tmp_path, monkeypatch):
    build, edge = SMALL[name]
    kind = nets.replace(NETS[name], build=build, edge=edge, batch=2, predict=None)
    monkeypatch.setitem(NETS, name, kind)
    first = train.train(tmp_path, name, Plan(minutes=5, steps=1, threads=1), device="cpu")
    assert (first.step, (tmp_path / "last.pt").exists()) == (1, True)
    again = train.train(tmp_path, name, Plan(minutes=5, steps=2, threads=1), device="cpu")
    assert again.step == 2
    assert all(np.isfinite(row["loss"]) and row["norm"] > 0 for row in again.curve)


def test_folding_blocks_of_voxels_into_channels_loses_nothing():
    volume = torch.randn(2, 3, 8, 4, 6)
    folded = fold(volume)
    assert folded.shape == (2, 24, 4, 2, 3)
    assert torch.equal(unfold(folded), volume)
    assert torch.equal(folded[:, 0], volume[:, 0, ::2, ::2, ::2])


def test_a_step_begins_at_the_object_with_the_measured_moduli():
    made = draw(2, torch.Generator().manual_seed(0), Ranges(gaps=0, cropped=0))
    data = Data.of(made.intensity, made.measured)
    wave = made.wave / made.wave.abs() * data.amplitude
    whole = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(wave, (1, 2, 3)), dim=(1, 2, 3)), (1, 2, 3))
    cut = (EDGE - BOX) // 2
    middle = whole[:, cut:-cut, cut:-cut, cut:-cut]
    begun = data.begun(wave.angle())
    torch.testing.assert_close(begun / begun.abs().max(), middle / middle.abs().max(), atol=1e-3, rtol=1e-2)
    fitted = data.fitted(whole[:, cut:-cut, cut:-cut, cut:-cut])
    agree = (fitted * middle.conj()).sum().abs() / (fitted.abs().square().sum() * middle.abs().square().sum()).sqrt()
    assert agree > 0.97


def test_the_pool_hands_objects_on_and_renews_its_crystals():
    fresh = (draw(4, torch.Generator().manual_seed(n), edge=EDGE) for n in range(1000))
    pool = Pool(fresh, torch.Generator().manual_seed(0))
    before = pool.crystals.photons.clone()
    batches = pool.batches(4)
    marked = next(batches)
    marked.advance(torch.full_like(marked.density, 7.0))
    assert (pool.density[marked.where] == 7).all()
    for _ in range(6):
        course = next(batches)
        torch.testing.assert_close(course.crystals.photons, pool.crystals.photons[course.where])
    changed = (pool.crystals.photons != before).sum().item()
    assert 2 <= changed <= 24


def test_what_is_exported_is_what_was_trained():
    net = stirred(SeedNet((8, 16), steps=3))
    made = draw(2, torch.Generator().manual_seed(5))
    with torch.no_grad():
        wave, misfit = net(made.intensity, made.measured)
        pair, again = Graph(net)(made.intensity, made.measured)
    torch.testing.assert_close(torch.complex(pair[:, 0], pair[:, 1]), wave, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(again, misfit, atol=1e-3, rtol=1e-3)


def test_the_daemon_runs_what_is_exported(tmp_path):
    path = tmp_path / "phase.onnx"
    export(stirred(SeedNet((8, 16), steps=2)), path, {"made by": "a test"}, hypotheses=2)
    card = json.loads(path.with_suffix(".json").read_text())
    assert (card["task"], card["hypotheses"], card["made by"]) == ("phase", 2, "a test")
    made = random_crystal(1, shape=(40, 44, 48), strain="none", oversampling=(2.5, 3))
    done = predict(made.counts, made.valid, InferenceConfig(phase_model=str(path), providers=("cpu",)))
    assert (done.degraded, done.provider, done.density.shape) == ("", "cpu", (40, 44, 48))
    assert 0 < done.misfit < 1.5


def test_a_folder_without_a_trained_network_is_said_so(tmp_path):
    with pytest.raises(TrainingError, match="holds no trained network"):
        export_run(tmp_path, tmp_path / "phase.onnx")


def test_stitched_patches_give_back_phases_that_are_known():
    z, y, x = (torch.arange(52.0).reshape([-1 if a == b else 1 for b in range(3)]) for a in range(3))
    truth = (0.3 * torch.sin(z / 7) + 0.2 * torch.cos(y / 5) + 0.1 * torch.sin(x / 6))[None]
    intensity = 1000 * torch.rand(1, 52, 52, 52, generator=torch.Generator().manual_seed(2))

    def answer(seen):
        corner = _place(seen[0, 0], intensity[0])
        return truth[(slice(None), None, *(slice(c, c + 32) for c in corner))]

    found = patches.stitched(answer, answer, intensity)
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=1e-4)
    assert [len(shell) for shell in patches.shells(52)] == [1, 26]


def test_an_outer_patch_is_given_what_lies_within_and_judged_on_the_rest():
    fresh = iter([draw(2, torch.Generator().manual_seed(1), Ranges(gaps=0, cropped=0), edge=64)])
    patch = next(patches.outer_patches(fresh, 2, torch.Generator().manual_seed(0)))
    seen, known, mask = patch.seen.unbind(1)
    assert 0 < mask.mean() < 1
    assert not patch.weights[mask == 1].any()
    torch.testing.assert_close(known, patch.phase * mask)
    assert seen.max() == 1


def _place(scaled, whole):
    """Where a patch of known intensity was cut out."""
    for corner in (c for shell in patches.shells(52) for c in shell):
        cut = whole[tuple(slice(c, c + 32) for c in corner)].log1p()
        if torch.allclose(cut / cut.max(), scaled, atol=1e-6):
            return corner
    raise AssertionError


def test_networks_are_compared_after_the_same_time(monkeypatch):
    for name in ("seed", "rsp-2d"):
        build, edge = SMALL[name]
        monkeypatch.setitem(NETS, name, nets.replace(NETS[name], build=build, edge=edge, batch=2))
    monkeypatch.setattr(rivals, "_WATCHED", 2)
    done = list(rivals.rivals(["seed", "rsp-2d"], 0.01, "cpu"))
    assert [one.name for one in done] == ["seed", "rsp-2d"]
    assert all(one.steps and one.crystals == 2 * one.steps and np.isfinite(one.loss) for one in done)
    text = rivals.report(done, 0.01)
    assert 0 < done[0].accuracy < 100
    assert re.search(r"\| rsp-2d \| .* \| - \| ", text)
