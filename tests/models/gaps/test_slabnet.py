"""The slab network: what it starts from, what it must not depend on, and that it learns, resumes and is exported."""

import dataclasses
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
from braggd_models.gaps.lateral import AROUND, STRIDE  # noqa: E402
from braggd_models.gaps.linear import Guesses  # noqa: E402
from braggd_models.gaps.loss import plane_loss  # noqa: E402
from braggd_models.gaps.samples import crystal, sample  # noqa: E402
from braggd_models.gaps.slabnet import REACH, GapFiller, SlabNet  # noqa: E402
from braggd_models.gaps.start import begin  # noqa: E402
from braggd_models.optimiser import orthogonal  # noqa: E402
from braggd_models.training import Plan, device_of, fit, resumed  # noqa: E402

PLANE = (2 * STRIDE, 3 * STRIDE)
SMALL = {"hidden": 32, "blocks": 2, "lateral": (16, 16, 16)}


@pytest.fixture(scope="module")
def guesses():
    return linear.learn(5, 4)


@pytest.fixture(scope="module")
def lines():
    rng = np.random.default_rng(3)
    made = rng.normal(size=(CHANNELS, *PLANE)).astype(np.float32)
    made[2 * CONTEXT : 4 * CONTEXT] = rng.random((2 * CONTEXT, *PLANE)) < 0.9
    made[-1] = rng.uniform(0, 11, PLANE)
    return made


def padded(lines):
    return torch.from_numpy(np.pad(lines, ((0, 0), (REACH, REACH), (REACH, REACH)), mode="edge"))[None]


def stirred():
    torch.manual_seed(1)
    net = SlabNet(**SMALL)
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
    filler = GapFiller(SlabNet(**SMALL), guesses)
    ours = filler.guess(padded(lines), torch.tensor([width]))
    for guess, wanted in zip(ours, linear.predict(guesses, lines, width), strict=True):
        np.testing.assert_allclose(guess[0, :width].numpy(), wanted, rtol=2e-3, atol=2e-3)


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
    by_logs = torch.rand(1, WIDEST, *PLANE)
    logs, _ = SlabNet()(padded(lines), torch.tensor([6]), by_logs, by_logs + 0.5)
    assert float((logs - by_logs).detach().abs().max()) < 0.03


def test_overlapping_crops_agree_exactly_where_they_lie_alike_and_see_as_far_as_matters():
    net, width = stirred(), torch.tensor([9])
    torch.manual_seed(2)
    size, start = 2 * AROUND + 4 * STRIDE, 2 * STRIDE
    lines = torch.randn(1, CHANNELS, size + 2 * REACH, STRIDE + 2 * REACH)
    by_logs, by_counts = torch.rand(2, 1, WIDEST, size, STRIDE)
    part = slice(start, size)
    with torch.no_grad():
        whole = net(lines, width, by_logs, by_counts)
        crop = net(lines[:, :, start:], width, by_logs[:, :, part], by_counts[:, :, part])
        nearer = net(lines[:, :, AROUND:], width, by_logs[:, :, AROUND:], by_counts[:, :, AROUND:])
    for all_lines, some, few in zip(whole, crop, nearer, strict=True):
        torch.testing.assert_close(some[:, :9, AROUND:], all_lines[:, :9, start + AROUND :], rtol=1e-4, atol=1e-5)
        assert float((few[:, :9, :STRIDE] - all_lines[:, :9, AROUND : AROUND + STRIDE]).abs().max()) > 1e-3


def test_what_lies_far_away_in_the_gap_s_plane_is_seen():
    net, width = stirred(), torch.tensor([9])
    torch.manual_seed(2)
    lines = torch.randn(1, CHANNELS, 5 * STRIDE + 2 * REACH, STRIDE + 2 * REACH)
    by_logs, by_counts = torch.rand(2, 1, WIDEST, 5 * STRIDE, STRIDE)
    other = lines.clone()
    other[:, :-1, :STRIDE] += 1
    with torch.no_grad():
        change = (net(other, width, by_logs, by_counts)[0] - net(lines, width, by_logs, by_counts)[0])[:, :9]
    assert float(change[:, :, 2 * STRIDE : 3 * STRIDE].abs().max()) > 1e-4


def planes_of(guesses, count, plain=True):
    guessing = train.Guessing.of(SlabNet(**SMALL), guesses, device_of("cpu"))
    rng = np.random.default_rng([8, 1])
    found = [sample(crystal(rng), 6, rng, plain=plain) for _ in range(count)]
    return train.joined([guessing.planes(one, train.cut(one, rng)) for one in found if one is not None])


def test_the_loss_is_least_at_the_truth(guesses):
    batch = planes_of(guesses, 3)
    truth = batch.truth
    best, terms = plane_loss((truth, torch.zeros_like(truth)), batch)
    assert all(abs(float(term)) < 1e-5 for name, term in terms.items() if name != "sigma")
    for shift in (0.1, -0.1, torch.linspace(-1, 1, truth.shape[-1])):
        assert float(plane_loss((truth + shift, torch.zeros_like(truth)), batch)[0]) > float(best)


def test_the_loss_of_interpolation_is_about_one_in_every_term(guesses):
    batch = planes_of(guesses, 6)
    _, terms = plane_loss((batch.interpolated, torch.zeros_like(batch.truth)), batch)
    assert all(0.3 < float(terms[name]) < 1.05 for name in ("log", "amplitude", "counts", "log pcc", "counts pcc"))


def test_the_loss_sees_what_correlation_does_not_that_counts_are_too_faint(guesses):
    batch = planes_of(guesses, 3)
    _, terms = plane_loss((torch.log(torch.exp(batch.truth) / 2), torch.zeros_like(batch.truth)), batch)
    assert float(terms["counts pcc"]) < 1e-3
    assert float(terms["sum"]) > 0.3


def test_what_is_cut_out_is_what_lies_there(guesses):
    rng = np.random.default_rng([8, 2])
    one = next(made for made in (sample(crystal(rng), 6, rng) for _ in range(20)) if made is not None)
    guessing = train.Guessing.of(SlabNet(**SMALL), guesses, device_of("cpu"))
    for _ in range(5):
        rows, columns = train.cut(one, rng)
        cut = guessing.planes(one, (rows, columns))
        assert cut.truth.shape == cut.by_logs.shape == (1, WIDEST, train.SIDE, train.SIDE)
        np.testing.assert_allclose(cut.truth[0, :6], one.truth[:, rows, columns])
        inner = cut.lines[0, :, REACH:-REACH, REACH:-REACH]
        np.testing.assert_allclose(inner, one.lines[:, rows, columns])
        by_logs, _ = linear.predict(guesses, one.lines, 6)
        expected = by_logs[:, rows, columns][:, 1:-1, 1:-1]
        np.testing.assert_allclose(cut.by_logs[0, :6, 1:-1, 1:-1], expected, rtol=1e-2, atol=1e-2)


def test_orthogonalised_matrices_have_equal_singular_values():
    torch.manual_seed(0)
    for shape in ((8, 20), (20, 8)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert 0.6 < float(values.min()) <= float(values.max()) < 1.3


def test_training_learns_goes_on_where_it_stopped_and_leaves_curves(tmp_path, guesses):
    batch = planes_of(guesses, 3)
    losses = []

    def loss(outputs, planes):
        value, terms = plane_loss(outputs, planes)
        losses.append(float(value.detach()))
        return value, terms

    def go(steps):
        torch.manual_seed(0)
        run = resumed(SlabNet(**SMALL), tmp_path, Plan(minutes=60, rate=2e-3, warmup=1), device_of("cpu"))
        plan = Plan(minutes=60, steps=steps, rate=2e-3, warmup=1)
        fit(run, train.asked, iter(lambda: batch, None), loss, plan, tmp_path, device=device_of("cpu"))
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


def test_batches_mix_crystals_and_replace_old_gaps(guesses):
    rng = np.random.default_rng([9, 1])
    one = next(made for made in (sample(crystal(rng), 6, rng) for _ in range(20)) if made is not None)

    def gaps():
        number = 0
        while True:
            number += 1
            yield [dataclasses.replace(one, truth=np.full_like(one.truth, number))] * 3

    guessing = train.Guessing.of(SlabNet(**SMALL), guesses, device_of("cpu"))
    batches = train.mixed(gaps(), guessing, np.random.default_rng(0), pool=12, batch=6)
    seen = [set(next(batches).truth[:, 0, 0, 0].tolist()) for _ in range(30)]
    assert len(seen[20]) > 1
    assert max(seen[29]) > max(seen[0])
    assert min(seen[29]) > min(seen[0])


def test_a_training_may_begin_with_an_exported_network(tmp_path, guesses):
    path, net = tmp_path / "net.onnx", stirred()
    export(net, guesses, path, {})
    fresh = SlabNet(**SMALL)
    learnt, said = begin(fresh, path)
    for name, values in net.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[name], values, rtol=2e-3, atol=1e-4)
    for width in (3, 40):
        np.testing.assert_allclose(learnt.logs[width], guesses.logs[width], rtol=2e-3, atol=1e-4)
        np.testing.assert_array_equal(learnt.counts[width], guesses.counts[width])
    assert said.startswith("100% of the weights from net.onnx, minutes unknown")
    for content in (b"rubbish", b""):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match=r"net\.onnx"):
            begin(fresh, path)


def test_an_exported_network_fills_gaps_and_says_what_it_is(tmp_path, guesses):
    path = tmp_path / "net.onnx"
    export(SlabNet(**SMALL), guesses, path, {"command": "test"})
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
