"""Faceted crystals in batches: half-spaces, scaled to a box, and how much of each voxel they fill.

The same shapes as `braggd_models.simulate.shapes`: Wulff shapes of random energies, free and cut by a substrate, cubes,
octahedra, tetrahexahedra, random facets, and bodies round enough for an ellipsoid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from braggd_models.simulate.shapes import family

_FAR = 1e3
_CAP = 1.9  # a cube about bodies whose random facets do not close
_RANDOM = 44
_RAYS = 1500


def draw(count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Bodies about the origin, turned at random: unit normals (count, facets, 3) and distances (count, facets)."""
    device = rng.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=rng, device=device)

    families = [_family(indices, rng) for indices in ((1, 1, 1), (1, 0, 0), (1, 1, 0))]
    high = [_family(indices, rng) for indices in ((2, 1, 0), (3, 1, 0), (2, 1, 1), (3, 1, 1))]
    chosen = torch.randint(len(high), (count,), generator=rng, device=device)
    kind = torch.rand(count, 1, generator=rng, device=device)
    cube, octahedron, other = kind < 0.08, (kind >= 0.08) & (kind < 0.16), (kind >= 0.16) & (kind < 0.22)
    loose = kind >= 0.72
    far = torch.full((count, 1), _FAR, device=device)
    energies = [
        torch.where(cube | other | loose, far, torch.ones_like(far)),
        torch.where(octahedron | other | loose, far, uniform(0.85, 1.5, 1)),
        torch.where(cube | octahedron | other | loose | (uniform(0, 1, 1) < 0.5), far, uniform(0.95, 1.3, 1)),
        torch.where(cube | octahedron | loose | ((uniform(0, 1, 1) < 0.5) & ~other), far, uniform(0.95, 1.25, 1)),
    ]
    normals = [one.expand(count, -1, -1) for one in families]
    normals.append(torch.stack([_resized(one, 24) for one in high])[chosen])
    distances = [energy.expand(-1, one.shape[1]) for energy, one in zip(energies, normals, strict=True)]
    # a substrate, along one of the low facets
    cut = torch.where(uniform(0, 1, 1) < 0.3, uniform(-0.3, 0.7, 1), far)
    normals.append(families[0][torch.randint(8, (count,), generator=rng, device=device)][:, None])
    distances.append(torch.where(loose, far, cut))
    scattered = torch.randn(count, _RANDOM, 3, generator=rng, device=device)
    used = torch.arange(_RANDOM, device=device)[None] < 10 + 34 * uniform(0, 1, 1)
    spread = 0.35 * (uniform(0, 1, 1) < 0.8)
    normals.append(scattered / scattered.norm(dim=-1, keepdim=True))
    distances.append(torch.where(loose & used, 1 + spread * uniform(-1, 1, _RANDOM), far))
    normals.append(families[1].expand(count, -1, -1))
    distances.append(torch.where(loose, _CAP, _FAR).expand(-1, 6))
    every, apart = torch.cat(normals, 1), torch.cat(distances, 1)
    apart = apart * (1 + 0.1 * uniform(0, 1, 1) * uniform(-1, 1, apart.shape[1]))
    turn = torch.linalg.qr(torch.randn(count, 3, 3, generator=rng, device=device))[0]
    return every @ turn, apart


def placed(body: tuple[Tensor, Tensor], half: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sheared, scaled to boxes of (batch, 3) half widths, the middle of mass at the origin.

    Returns normals, no longer of length 1, and distances: inside is normal . x < distance, x in voxels.
    """
    normals, distances = body
    device = rng.device
    rays = torch.randn(_RAYS, 3, generator=rng, device=device)
    rays = rays / rays.norm(dim=-1, keepdim=True)
    # the substrate may cut off the origin: stand where the body is thickest along the cut's normal
    inner = _inside(normals, distances)
    distances = distances - (normals @ inner[:, :, None])[..., 0]
    along = normals @ rays.T
    reach = torch.where(along > 1e-4, distances[..., None] / along.clamp_min(1e-4), _FAR).amin(1)
    middle = torch.einsum("br,rc->bc", reach**4 / 4, rays) / (reach**3 / 3).sum(1, keepdim=True)
    points = reach[..., None] * rays - middle[:, None]
    distances = distances - (normals @ middle[:, :, None])[..., 0]
    shear = torch.eye(3, device=device).repeat(len(half), 1, 1)
    shear[:, 0, 1:] += 0.4 * (2 * torch.rand(len(half), 2, generator=rng, device=device) - 1)
    shear[:, 1, 2] += 0.4 * (2 * torch.rand(len(half), generator=rng, device=device) - 1)
    points = points @ shear.transpose(1, 2)
    extent = points.amax(1) - points.amin(1)
    change = torch.diag_embed(2 * half / extent) @ shear
    return normals @ torch.linalg.inv(change), distances


def filled(crystal: tuple[Tensor, Tensor], line: Tensor, softness: Tensor) -> Tensor:
    """How much of each sample is filled, (batch, n, n, n) from 0 to 1.

    line: (n,) places of the samples along every axis; softness: (batch,) width of the surface, voxels
    """
    normals, distances = crystal
    lengths = normals.norm(dim=-1)
    normals, distances = normals / lengths[..., None], distances / lengths
    size = len(line)
    outside = torch.full((len(normals), size, size, size), -_FAR, device=line.device)
    near = (distances < 50).any(0).nonzero()[:, 0].tolist()
    for facet in near:
        z, y, x = (normals[:, facet, axis, None] * line for axis in range(3))
        plane = (z - distances[:, facet, None])[:, :, None, None] + y[:, None, :, None]
        outside = torch.maximum(outside, plane + x[:, None, None, :])
    return (0.5 - outside / softness[:, None, None, None]).clamp(0, 1)


def _family(indices: tuple[int, int, int], rng: torch.Generator) -> Tensor:
    return torch.as_tensor(family(indices), dtype=torch.float32, device=rng.device)


def _resized(normals: Tensor, count: int) -> Tensor:
    """Repeated to that many: a half-space given twice changes nothing."""
    return normals[torch.arange(count, device=normals.device) % len(normals)]


def _inside(normals: Tensor, distances: Tensor, steps: int = 12) -> Tensor:
    """A point inside each body, (batch, 3), by pushing away from the facets that are nearest."""
    point = torch.zeros(len(normals), 3, device=normals.device)
    for _ in range(steps):
        room = distances - (normals @ point[:, :, None])[..., 0]
        least, which = room.min(1)
        step = (0.35 - least).clamp(0, 1)[:, None]
        point = point - step * torch.take_along_dim(normals, which[:, None, None], 1)[:, 0]
    return point
