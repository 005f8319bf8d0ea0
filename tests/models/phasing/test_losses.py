"""Losses of phases, against numpy and the symmetries that they must not see."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from braggd.phasing.align import accuracy as precise  # noqa: E402
from braggd.phasing.align import align  # noqa: E402
from braggd_models.phasing import fourier, losses  # noqa: E402
from braggd_models.phasing.accuracy import accuracy  # noqa: E402
from braggd_models.phasing.planes import Planes, plane_mse  # noqa: E402

EDGE = 12


@pytest.fixture
def phases():
    rng = torch.Generator().manual_seed(0)
    made = [6 * torch.rand(3, EDGE, EDGE, EDGE, generator=rng) - 3 for _ in range(2)]
    return (*made, torch.rand(3, EDGE, EDGE, EDGE, generator=rng))


def test_wca_is_the_thesis_s_sum(phases):
    phase, truth, weights = phases
    for sample in range(3):
        p, t, w = (volume[sample].numpy().astype(np.float64) for volume in phases)
        plus, minus = (1 - abs(np.sum(w * np.exp(1j * (sign * t - p)))) / w.sum() for sign in (1, -1))
        assert losses.wca_one_sign(phase, truth, weights)[sample].item() == pytest.approx(plus, abs=1e-5)
        assert losses.wca(phase, truth, weights)[sample].item() == pytest.approx(min(plus, minus), abs=1e-5)


def test_wca_does_not_see_offset_wraps_and_sign(phases):
    truth, _, weights = phases
    assert losses.wca(truth, truth, weights).max() < 1e-6
    wrapped = torch.remainder(truth + 1.3, 2 * torch.pi)
    assert losses.wca(wrapped, truth, weights).max() < 1e-6
    assert losses.wca(-truth, truth, weights).max() < 1e-6
    assert losses.wca_one_sign(-truth, truth, weights).min() > 0.3


def test_the_sign_is_chosen_for_every_sample_by_itself(phases):
    truth, _, weights = phases
    turned = truth * torch.tensor([1.0, -1.0, 1.0])[:, None, None, None]
    assert losses.wca(turned, truth, weights).max() < 1e-6


def test_a_phasor_has_the_loss_of_its_phase_and_a_gradient(phases):
    phase, truth, weights = phases
    phasor = torch.polar(torch.ones_like(phase), phase).requires_grad_()
    true = torch.polar(torch.ones_like(truth), truth)
    loss = losses.phasor_wca(phasor, true, weights)
    torch.testing.assert_close(loss, losses.wca(phase, truth, weights))
    loss.sum().backward()
    assert phasor.grad.abs().max() > 0


def test_small_transforms_are_numpy_s_and_undo_each_other(phases):
    density = torch.complex(phases[0], phases[1])
    wave = fourier.forward(density, EDGE)
    wanted = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(density.numpy(), (1, 2, 3)), axes=(1, 2, 3)), (1, 2, 3))
    np.testing.assert_allclose(wave.numpy(), wanted, atol=1e-3)
    np.testing.assert_allclose(fourier.inverse(wave, EDGE).numpy(), density.numpy(), atol=1e-4)
    middle = fourier.inverse(wave, EDGE - 4)
    np.testing.assert_allclose(middle.numpy(), density.numpy()[:, 2:-2, 2:-2, 2:-2], atol=1e-4)


def test_real_space_mse_is_that_of_the_objects_and_takes_the_twin_for_wrong(phases):
    phase, truth, modulus = phases
    wave = torch.polar(modulus, truth)
    made, true = (fourier.inverse(torch.polar(modulus, p), EDGE).numpy() for p in (phase, truth))
    wanted = np.mean(np.abs(made - true) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(losses.real_space_mse(phase, wave).numpy(), wanted, rtol=1e-4)
    assert losses.real_space_mse(truth, wave).max() < 1e-9
    assert losses.real_space_mse(-truth, wave).min() > 0.1 * np.mean(np.abs(true) ** 2)


def test_in_two_dimensions_the_mse_is_0_for_the_truth_alone(phases):
    truth, _, modulus = (volume[0] for volume in phases)
    planes = Planes(modulus[:, None], torch.polar(modulus, truth))
    assert plane_mse(truth[:, None], planes)[0] < 1e-9
    assert plane_mse(-truth[:, None], planes)[0] > 0.3


def test_accuracy_while_training_is_that_of_the_aligned_objects():
    rng = np.random.default_rng(1)
    z, y, x = np.meshgrid(*[np.arange(24) - 12] * 3, indexing="ij", sparse=True)
    body = (abs(z) < 5) & (abs(y + 0.3 * z) < 4) & (x + y < 6) & (x > -4)
    true = (body * np.exp(0.05j * (z * x + y * y))).astype(np.complex64)
    other = np.roll(true * np.exp(0.3j * rng.normal(size=true.shape)), (2, -1, 3), (0, 1, 2)).astype(np.complex64)
    other += (0.05 * rng.normal(size=true.shape)).astype(np.complex64)
    waves = [torch.from_numpy(np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(o)))[None]) for o in (true, other)]
    wanted = precise(align(true, other).density, true)
    for found in (accuracy(waves[1], waves[0]), accuracy(waves[1].conj(), waves[0])):
        assert found.item() == pytest.approx(wanted, abs=2)
    assert accuracy(waves[0], waves[0]).item() == pytest.approx(100, abs=0.01)


def test_the_object_s_loss_is_its_accuracy_against_the_better_twin():
    rng = np.random.default_rng(4)
    true, made = (
        np.array(rng.random((2, 10, 10, 10)) * np.exp(1j * rng.uniform(-1, 1, (2, 10, 10, 10))), np.complex64)
        for _ in range(2)
    )
    wanted = []
    for t, m in zip(true, made, strict=True):
        modulus, phase = np.corrcoef(abs(m).ravel(), abs(t).ravel())[0, 1], np.angle(m) - np.angle(t)
        wanted.append(1 - (modulus + abs(np.sum(abs(m) * np.exp(1j * phase))) / abs(m).sum()) / 2)
    true, made = (torch.from_numpy(volume) for volume in (true, made))
    twins = losses.object_loss(made, true)
    assert (twins.numpy() <= np.array(wanted) + 1e-4).all()
    assert losses.object_loss(true, true).max() < 1e-3
    assert losses.object_loss(losses.twin(true), true).max() < 1e-3
    wave = fourier.forward(true, 10)
    torch.testing.assert_close(fourier.inverse(wave.conj(), 10), losses.twin(true), atol=1e-4, rtol=1e-4)
