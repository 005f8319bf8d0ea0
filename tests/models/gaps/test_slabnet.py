"""The slab network: what it starts from, what it must not depend on, and that it learns, resumes and is exported."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from braggd.config import InferenceConfig  # noqa: E402
from braggd.inference.inpaint import inpaint  # noqa: E402
from braggd.inference.slabs import CHANNELS, CONTEXT, WIDEST  # noqa: E402
from braggd_models.errors import TrainingError  # noqa: E402
from braggd_models.gaps import linear, train  # noqa: E402
from braggd_models.gaps.export import export, export_run  # noqa: E402
from braggd_models.gaps.linear import Guesses  # noqa: E402
from braggd_models.gaps.loss import line_loss  # noqa: E402
from braggd_models.gaps.samples import crystal, sample  # noqa: E402
from braggd_models.gaps.slabnet import REACH, GapFiller, SlabNet  # noqa: E402
from braggd_models.optimiser import orthogonal  # noqa: E402
from braggd_models.training import Plan, device_of, fit, resumed  # noqa: E402


@pytest.fixture(scope="module")
def guesses():
    return linear.learn(5, 4)


@pytest.fixture(scope="module")
def lines():
    rng = np.random.default_rng(3)
    made = rng.normal(size=(CHANNELS, 12, 13)).astype(np.float32)
    made[2 * CONTEXT : 4 * CONTEXT] = rng.random((2 * CONTEXT, 12, 13)) < 0.9
    made[-1] = rng.uniform(0, 11, (12, 13))
    return made


def padded(lines):
    return torch.from_numpy(np.pad(lines, ((0, 0), (REACH, REACH), (REACH, REACH)), mode="edge"))[None]


def stirred():
    torch.manual_seed(1)
    net = SlabNet(hidden=32, blocks=2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return net.eval()


def test_regression_finds_the_weights_that_made_the_data():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(5, 3))
    features = rng.normal(size=(5, 4000)).astype(np.float32)
    moments = linear.Moments((0.0, 10.0), 1e-6)
    moments.add(3, features, (truth.T @ features).astype(np.float32), rng.uniform(0, 10, 4000).astype(np.float32))
    for matrix in moments.solved()[3]:
        np.testing.assert_allclose(matrix, truth, atol=1e-3)


def test_a_gap_in_straight_logs_is_guessed_straight_without_any_weights():
    lines = np.zeros((CHANNELS, 3, 3), np.float32)
    lines[:CONTEXT], lines[CONTEXT : 2 * CONTEXT] = -1.0, 1.0
    np.testing.assert_allclose(linear.straight(lines, 3)[:, 1, 1], [-0.5, 0, 0.5])


@pytest.mark.parametrize("width", [3, 12, 40])
def test_the_exported_guesses_are_those_learnt(guesses, lines, width):
    filler = GapFiller(SlabNet(hidden=8, blocks=1), guesses)
    ours = filler.guess(padded(lines), torch.tensor([width]))
    for guess, wanted in zip(ours, linear.predict(guesses, lines, width), strict=True):
        np.testing.assert_allclose(guess[0, :width].numpy(), wanted, rtol=2e-3, atol=2e-3)


def test_gaps_too_wide_to_trust_the_network_get_the_linear_guesses(guesses, lines):
    filler = GapFiller(stirred(), guesses, trusted=12)
    with torch.no_grad():
        for width, trusted in ((12, True), (13, False)):
            logs, _ = filler(padded(lines), torch.tensor([width]))
            by_logs, by_counts = (guess[:, :width] for guess in filler.guess(padded(lines), torch.tensor([width])))
            between = (logs[:, :width] - by_logs) * (logs[:, :width] - by_counts) <= 1e-6
            assert bool(between.all()) is not trusted


def test_linear_guesses_beat_interpolation_on_crystals_that_they_never_saw(guesses):
    ratios = []
    for number in range(6):
        rng = np.random.default_rng([31, number])
        one = sample(crystal(rng), 3, rng, plain=True)
        if one is not None:
            guess, _ = linear.predict(guesses, one.lines, 3)
            ratios.append(np.mean((guess - one.truth) ** 2) / np.mean((one.interpolated - one.truth) ** 2))
    assert np.median(ratios) < 0.9


def test_an_untrained_network_nearly_keeps_the_guess_by_log_counts(lines):
    by_logs = torch.rand(1, WIDEST, 12, 13)
    logs, _ = SlabNet()(padded(lines), torch.tensor([6]), by_logs, by_logs + 0.5)
    assert float((logs - by_logs).detach().abs().max()) < 0.03


def test_overlapping_crops_agree_exactly(lines):
    net, by_logs, by_counts = stirred(), torch.rand(1, WIDEST, 12, 13), torch.rand(1, WIDEST, 12, 13)
    whole = padded(lines)
    width = torch.tensor([9])
    logs, sigma = net(whole, width, by_logs, by_counts)
    part = net(whole[:, :, 3:12, 4:13], width, by_logs[:, :, 3:8, 4:9], by_counts[:, :, 3:8, 4:9])
    torch.testing.assert_close(part[0][:, :9], logs[:, :9, 3:8, 4:9], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(part[1][:, :9], sigma[:, :9, 3:8, 4:9], rtol=1e-4, atol=1e-5)


def test_single_lines_give_what_the_plane_gives(lines):
    net, by_logs = stirred(), torch.rand(1, WIDEST, 12, 13)
    whole = padded(lines)
    logs, _ = net(whole, torch.tensor([6]), by_logs, by_logs + 1)
    line = net(whole[:, :, 2:7, 5:10], torch.tensor([6]), by_logs[:, :, 2:3, 5:6], by_logs[:, :, 2:3, 5:6] + 1)
    torch.testing.assert_close(line[0][0, :6, 0, 0], logs[0, :6, 2, 5], rtol=1e-4, atol=1e-5)


def test_the_loss_is_least_at_the_truth(guesses):
    rng = np.random.default_rng([7, 1])
    one = next(made for made in (sample(crystal(rng), 6, rng) for _ in range(20)) if made is not None)
    batch = train.lines_of(one, guesses, rng, 64)
    truth = batch.truth[:, :, None, None]
    best, terms = line_loss((truth, torch.zeros_like(truth)), batch)
    assert all(float(terms[name]) == pytest.approx(0, abs=1e-6) for name in ("log", "slope", "amplitude", "counts"))
    for shift in (0.1, -0.1):
        assert float(line_loss((truth + shift, torch.zeros_like(truth)), batch)[0]) > float(best)


def test_orthogonalised_matrices_have_equal_singular_values():
    torch.manual_seed(0)
    for shape in ((8, 20), (20, 8)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert 0.6 < float(values.min()) <= float(values.max()) < 1.3


def test_training_learns_goes_on_where_it_stopped_and_leaves_curves(tmp_path, guesses):
    rng = np.random.default_rng([8, 1])
    found = [sample(crystal(rng), 6, rng, plain=True) for _ in range(6)]
    batch = train.joined([train.lines_of(one, guesses, rng, 64) for one in found if one is not None])
    losses = []

    def loss(outputs, lines):
        value, terms = line_loss(outputs, lines)
        losses.append(float(value.detach()))
        return value, terms

    def go(steps):
        torch.manual_seed(0)
        run = resumed(SlabNet(hidden=32, blocks=1), tmp_path, Plan(minutes=60, rate=2e-3, warmup=1), device_of("cpu"))
        plan = Plan(minutes=60, steps=steps, rate=2e-3, warmup=1)
        fit(run, train._net, iter(lambda: batch, None), loss, plan, tmp_path, device=device_of("cpu"))
        return run

    assert go(25).step == 25
    assert np.mean(losses[-3:]) < 0.9 * losses[0]
    run = go(30)
    assert (run.step, len(losses)) == (30, 30)
    assert losses[25] < 0.95 * losses[0]
    assert {"last.pt", "curve.csv", "curve.png"} <= {file.name for file in tmp_path.iterdir()}
    (tmp_path / "last.pt").write_bytes(b"rubbish")
    with pytest.raises(TrainingError, match="checkpoint"):
        go(40)


def test_batches_mix_crystals_and_replace_old_lines(guesses):
    def crystals():
        rng = np.random.default_rng([9, 1])
        one = next(made for made in (sample(crystal(rng), 6, rng) for _ in range(20)) if made is not None)
        lines = train.lines_of(one, guesses, rng, 100)
        number = 0
        while True:
            number += 1
            yield type(lines)(
                lines.seen, torch.full_like(lines.width, number), *(getattr(lines, n) for n in lines.__slots__[2:])
            )

    batches = train.mixed(crystals(), np.random.default_rng(0), pool=300, batch=128)
    seen = [set(next(batches).width.tolist()) for _ in range(60)]
    assert len(seen[40]) > 1
    assert max(seen[59]) > max(seen[0])
    assert min(seen[59]) > min(seen[0])


def test_an_exported_network_fills_gaps_and_says_what_it_is(tmp_path, guesses):
    path = tmp_path / "net.onnx"
    export(SlabNet(hidden=16, blocks=1), guesses, path, {"command": "test"})
    card = json.loads(path.with_suffix(".json").read_text())
    assert (card["task"], card["command"], len(card["sha256"])) == ("gaps", "test", 64)
    made = crystal(np.random.default_rng(4))
    valid = np.ones(made.counts.shape, bool)
    middle = made.counts.shape[1] // 2
    valid[:, middle : middle + 5] = False
    done = inpaint(made.counts, valid, InferenceConfig(inpaint_model=str(path), providers=("cpu",)))
    assert (done.method, done.warnings) == ("network", ())


def test_runs_that_cannot_be_exported_are_refused_in_a_sentence(tmp_path, guesses):
    with pytest.raises(TrainingError, match=r"guesses\.npz"):
        export_run(tmp_path, tmp_path / "x.onnx")
    guesses.save(tmp_path / "guesses.npz")
    with pytest.raises(TrainingError, match="train gaps first"):
        export_run(tmp_path, tmp_path / "x.onnx")
    (tmp_path / "guesses.npz").write_bytes(b"rubbish")
    with pytest.raises(TrainingError, match=r"guesses\.npz"):
        Guesses.load(tmp_path / "guesses.npz")
