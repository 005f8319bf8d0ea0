"""The networks of the thesis: sizes as it states them, its loss, and its way of sliding patches."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from braggd_models.errors import TrainingError  # noqa: E402
from braggd_models.gaps.patches import SIDE, fine_tune, inpaint_by_patches, simulated, simulated_images  # noqa: E402
from braggd_models.gaps.thesis import (  # noqa: E402
    MSDNet,
    count,
    modified_unet,
    patch_net,
    ssim,
    thesis_loss,
    unet,
)
from braggd_models.simulate.gaps import cross, stripe  # noqa: E402


@pytest.mark.parametrize(("make", "parameters"), [(unet, 31_827_673), (modified_unet, 32_652_337), (MSDNet, 322_458)])
def test_2d_networks_have_exactly_the_parameters_of_table_3_1(make, parameters):
    assert count(make()) == parameters


def test_the_patch_network_has_the_parameters_and_the_bottleneck_of_the_thesis():
    net = patch_net()
    assert count(net) == pytest.approx(2.77e6, rel=0.001)
    sizes = []
    net.encoder[-1].register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape)))
    with torch.no_grad():
        painted = net(torch.rand(1, 1, SIDE, SIDE, SIDE))
    assert sizes == [(1, 478, 4, 4, 4)]  # pooled to 2 x 2 x 2
    assert painted.shape == (1, 1, SIDE, SIDE, SIDE)
    assert 0 <= float(painted.min()) <= float(painted.max()) <= 1


def test_2d_networks_keep_the_image_s_shape():
    for make in (unet, modified_unet):
        with torch.no_grad():
            assert make()(torch.rand(1, 1, 64, 64)).shape == (1, 1, 64, 64)


def test_ssim_is_that_of_scikit_image():
    from skimage.metrics import structural_similarity

    rng = np.random.default_rng(0)
    a = rng.random((24, 26))
    b = np.clip(a + 0.1 * rng.normal(size=a.shape), 0, 1)
    _, theirs = structural_similarity(a, b, win_size=7, data_range=1.0, full=True, use_sample_covariance=False)
    ours = ssim(torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(ours[3:-3, 3:-3], theirs[3:-3, 3:-3], atol=1e-6)


def test_the_loss_is_zero_for_the_truth_and_ignores_what_is_far_from_the_gap():
    truth = torch.rand(1, 1, 16, 16, 24)
    gap = torch.zeros_like(truth)
    gap[..., 2:5] = 1
    assert float(thesis_loss(truth, truth, gap)[0]) == pytest.approx(0, abs=1e-5)
    elsewhere = truth.clone()
    elsewhere[..., 12:] = 0
    assert float(thesis_loss(elsewhere, truth, gap)[0]) == pytest.approx(0, abs=1e-5)
    inside = truth.clone()
    inside[..., 3] = 0
    assert float(thesis_loss(inside, truth, gap)[0]) > 0.1


class Echo(torch.nn.Module):
    """Answers 0.5 everywhere."""

    def forward(self, x):
        return torch.full_like(x, 0.5)


@pytest.mark.parametrize("step", [5, 16])
def test_sliding_patches_cover_the_gap_and_keep_measured_voxels(step):
    rng = np.random.default_rng(1)
    counts = rng.poisson(50, (40, 48, 44)).astype(np.float32)
    counts[::32, ::16, ::16] = counts[:, :, :].max()
    pixels = cross((48, 44), (20, 18), (4, 6))
    filled = inpaint_by_patches(Echo(), np.where(pixels, counts, 0).astype(np.float32), pixels, step)
    np.testing.assert_array_equal(filled[:, pixels], counts[:, pixels])
    # half of the logarithm of the patch's brightest voxel
    assert filled[:, ~pixels].min() > 3
    assert filled[:, ~pixels].max() <= np.sqrt(counts.max() + 1)


def test_patches_need_a_volume_of_their_size_and_a_gap_away_from_the_border():
    pixels = stripe((40, 40), 1, 18, 4)
    with pytest.raises(TrainingError, match="smaller than a patch"):
        inpaint_by_patches(Echo(), np.ones((16, 40, 40), np.float32), pixels)
    with pytest.raises(TrainingError, match="border"):
        inpaint_by_patches(Echo(), np.ones((40, 40, 40), np.float32), stripe((40, 40), 1, 1, 4))


def test_simulated_patches_hold_their_gap_at_zero_and_are_scaled():
    for batch in (next(simulated(0, 6, batch=4, per_crystal=8)), next(simulated_images(0, 9, side=32, batch=2))):
        assert float(batch.seen.max()) == 1
        assert not bool((batch.seen * batch.gap).any())
        assert bool(batch.gap.any())
        assert float(batch.truth.max()) <= 1


def test_fine_tuning_takes_only_patches_without_gaps_and_brings_the_loss_down():
    rng = np.random.default_rng(2)
    _, y, x = np.mgrid[:34, :70, :34]
    counts = rng.poisson(100 * (1.5 + np.cos(0.8 * y) * np.cos(0.8 * x))).astype(np.float32)
    pixels = stripe((70, 34), 0, 34, 2)
    net = torch.nn.Conv3d(1, 1, 5, padding=2)
    first = [p.clone() for p in net.parameters()]
    assert fine_tune(net, np.where(pixels, counts, np.nan), pixels, 3, patches=8, epochs=2, rate=1e-2) == 2
    assert all(
        bool(torch.isfinite(p).all()) and not torch.equal(p, q) for p, q in zip(net.parameters(), first, strict=True)
    )
    with pytest.raises(TrainingError, match="free of gaps"):
        fine_tune(net, counts, stripe((70, 34), 1, 16, 2), 3, patches=4, epochs=1)
