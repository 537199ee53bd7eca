"""Latent geometries of meshes: a rotation of the sphere, as operator and as flow."""

import itertools
import math

import pytest
import torch

from gyrostat.numerics.geometry import LatentGeometry
from gyrostat.numerics.operators import flow


def icosphere(times):
    """Vertices (n, 3) and faces (m, 3) of a subdivided icosahedron."""
    g = (1 + 5**0.5) / 2
    corners = [(s, t * g, 0.0) for s in (-1, 1) for t in (-1, 1)]
    X = [p[i:] + p[:i] for p in corners for i in range(3)]
    X = torch.tensor(X, dtype=torch.float64)
    near = torch.cdist(X, X) < 2.1
    triples = itertools.combinations(range(12), 3)
    faces = [t for t in triples if all(near[a, b] for a, b in itertools.combinations(t, 2))]
    X = [x / x.norm() for x in X]
    for _ in range(times):
        middle, split = {}, []
        for a, b, c in faces:
            ab, bc, ca = (_middle(X, middle, *pair) for pair in ((a, b), (b, c), (c, a)))
            split += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
        faces = split
    return torch.stack(X), torch.tensor(faces)


def _middle(X, known, a, b):
    key = (min(a, b), max(a, b))
    if key not in known:
        known[key] = len(X)
        X.append((X[a] + X[b]) / (X[a] + X[b]).norm())
    return known[key]


def on_mesh(X, faces):
    """The latent geometry of a mesh, faces as cells, and the centres of the faces."""
    m, n = len(faces), len(X)
    corner = X[faces]  # (m, 3, 3)
    normal = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    area = normal.norm(dim=1) / 2
    rows = torch.arange(m)
    G, P = torch.zeros(m, 3, n, dtype=X.dtype), torch.zeros(m, n, dtype=X.dtype)
    for k in range(3):
        # the hat of a corner rises at right angles to the opposite side
        side = corner[:, (k + 2) % 3] - corner[:, (k + 1) % 3]
        G[rows, :, faces[:, k]] = torch.linalg.cross(normal, side) / (normal.norm(dim=1) ** 2)[:, None]
        P[rows, faces[:, k]] = 1 / 3
    return LatentGeometry(G.reshape(3 * m, n), P, area), corner.mean(1)


def test_a_rotation_of_the_sphere_converges():
    errors = []
    for times in (1, 2, 3):
        X, faces = icosphere(times)
        geometry, centre = on_mesh(X, faces)
        assert len(X) == 10 * 4**times + 2
        assert geometry.G.sum(1).abs().max() < 1e-12
        spin = torch.stack([-centre[:, 1], centre[:, 0], torch.zeros(len(centre), dtype=torch.float64)], 1)
        D = geometry.operator(spin)
        moved = flow(-0.5 * D) @ X[:, 0]
        exact = X[:, 0] * math.cos(0.5) + X[:, 1] * math.sin(0.5)
        errors.append((float((D @ X[:, 0] + X[:, 1]).abs().max()), float((moved - exact).abs().max())))
    # the errors that the derivation was measured with; between them, first to second order
    expected = [(0.111, 0.054), (0.036, 0.021), (0.014, 0.0074)]
    for found, want in zip(errors, expected, strict=True):
        assert found == pytest.approx(want, rel=0.03)
