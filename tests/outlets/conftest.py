"""A reconstruction whose truth is known: a faceted, strained crystal at 34-ID-C, with a gap through its pattern."""

import numpy as np
import pytest

from braggd.crystal.geometry import direct_basis, scattering_vector
from braggd.crystal.strain import crystal_from, strain_rms
from braggd.data import Geometry, Reconstruction, Stage


@pytest.fixture(scope="session")
def make_reconstruction():
    return simulated


@pytest.fixture(scope="session")
def reconstruction():
    return simulated((40, 64, 56))


def simulated(shape, *, stage=Stage.FINAL, scan_id="S0054-simulated", known_geometry=True, photons=2e7):
    """A truncated octahedron, strained by two bumps, and its noisy pattern with a cross-shaped gap."""
    geometry = Geometry(
        diffractometer="aps-34idc",
        energy_kev=9.0,
        distance_m=0.5,
        pixel_size_m=(55e-6, 55e-6),
        angles_deg={"delta": 32.174, "gamma": 12.6346},
        rocking_motor="theta",
        rocking_deg=tuple(0.01 * n for n in range(shape[0] + 20)),
    )
    edges = direct_basis(geometry, shape)
    density, support = _particle(shape, edges, scattering_vector(geometry))
    wave = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(density)))
    intensity = np.abs(wave) ** 2
    intensity *= photons / intensity.sum()
    rng = np.random.default_rng(7)
    counts = rng.poisson(intensity).astype(np.float32)
    valid = np.ones(shape, bool)
    valid[:, shape[1] // 2 + 9 : shape[1] // 2 + 15] = False
    valid[:, :, shape[2] // 2 - 14 : shape[2] // 2 - 8] = False
    crystal = crystal_from(density, support, geometry)
    return Reconstruction(
        scan_id=scan_id,
        stage=stage,
        counts=np.where(valid, counts, np.nan).astype(np.float32),
        valid=valid,
        inpainted=np.where(valid, counts, intensity).astype(np.float32),
        region=((10, 10 + shape[0]), (30, 30 + shape[1]), (40, 40 + shape[2])),
        density=density,
        support=support,
        geometry=geometry if known_geometry else Geometry(),
        crystal=crystal if known_geometry else None,
        metrics={
            "llk": 1.07,
            "free_llk": 1.21,
            "resolution_nm": 18.2,
            "strain_rms": strain_rms(crystal),
            "support_voxels": float(support.sum()),
            "unknown": float("nan"),
        },
        warnings=("6 frames were lost", "no network: gaps were interpolated"),
        timing={"inpaint": 0.31, "phase": 2.4, "crystal": 0.2},
        provenance={"config": {"phasing": {"starts": 3}}, "versions": {"numpy": np.__version__}, "provider": "cpu"},
    )


def _particle(shape, edges, q):
    """Density in the detector frame; its facets and its displacement are drawn in the laboratory, nm."""
    places = np.stack(np.meshgrid(*[np.arange(n) - n // 2 for n in shape], indexing="ij"), -1) @ edges
    radius = 0.16 * np.min(np.linalg.norm(edges, axis=1) * shape)
    tilt = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    body = places @ tilt / radius
    octahedron = np.abs(body).sum(-1) / 1.62
    cube = np.abs(body * [1.0, 1.08, 0.92]).max(-1) / 0.98
    outside = np.maximum(octahedron, cube)
    support = outside < 1
    normal = q / np.linalg.norm(q)
    bump = np.exp(-((body - [0.7, 0.2, 0.3]) ** 2).sum(-1) / 0.5) - 0.8 * np.exp(
        -((body - [-0.5, -0.5, 0.2]) ** 2).sum(-1) / 0.4
    )
    displacement = 1.4 * bump + 0.12 * (places @ normal / radius) ** 2
    density = support * np.exp(-1j * np.linalg.norm(q) * displacement)
    return density.astype(np.complex64), support
