"""The latent geometries a vector-field RNN can live on: what each one stores, learns, and hands to the mathematics."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._checks import nearest
from .._errors import ArgumentError
from ..numerics.geometry import CompleteGraph, Graph, LatentGeometry, check_edges, named_edges

NAMES = ("complete", "ring", "torus", "free")
# components of a field in one cell of the learned geometry
_COMPONENTS = 2


class CompletePlace:
    """Every two points joined: nothing to store."""

    complete, sparse = True, False

    def __init__(self, n: int) -> None:
        self.n = n
        self.field_shape: tuple[int, ...] = (n * (n - 1) // 2,)

    def check(self, learn_mass: bool, projected: bool) -> None:
        """Refuse options that this geometry cannot have."""

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """What is learned."""
        return {}

    def buffer_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        """What is stored."""
        return {}

    def reset(self, parameters: dict[str, Tensor], generator: torch.Generator | None) -> None:
        """Fill both."""

    def of(self, parameters: dict[str, Tensor]) -> Any:
        """The geometry as an object with ``grad``, ``average``, ``flux`` and ``project``."""
        return CompleteGraph(self.n, parameters["weight_ih"].device)

    def mass(self, parameters: dict[str, Tensor]) -> Tensor:
        """μ (n) where it is not learned apart."""
        return torch.ones_like(parameters["weight_ih"][:, 0])


class GraphPlace(CompletePlace):
    """Points joined by given edges, which travel in the state dict."""

    complete, sparse = False, True

    def __init__(self, n: int, edges: Tensor) -> None:
        self.n, self.edges = n, edges
        self.field_shape = (edges.shape[1],)

    def buffer_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        return {"edges": (tuple(self.edges.shape), torch.long)}

    def reset(self, parameters: dict[str, Tensor], generator: torch.Generator | None) -> None:
        parameters["edges"].copy_(self.edges)

    def of(self, parameters: dict[str, Tensor]) -> Any:
        return Graph(self.n, parameters["edges"])


class FixedPlace(CompletePlace):
    """A latent geometry that the user made, which travels in the state dict."""

    complete = False

    def __init__(self, n: int, geometry: LatentGeometry) -> None:
        G, P, alpha = (v.detach().double().cpu() for v in (geometry.G, geometry.P, geometry.alpha))
        if P.shape[1] != n:
            raise ArgumentError(f"VectorFieldRNN: geometry must have hidden_size ({n}) points, got {P.shape[1]}")
        # float32 geometries carry its rounding
        off = max(float(G.sum(1).abs().max() / G.abs().max().clamp_min(1e-300)), float((P.sum(1) - 1).abs().max()))
        if not off < 1e-4 or not bool((alpha > 0).all()) or not bool((P.T @ alpha > 0).all()):
            raise ArgumentError("VectorFieldRNN: geometry must have G 1 = 0, P 1 = 1, alpha > 0 and Pᵀ alpha > 0")
        self.n, self.tensors = n, {"gradient": G, "means": P, "cell_weight": alpha}
        self.rank = int(torch.linalg.matrix_rank(G))
        self.field_shape = (P.shape[0], geometry.components)

    def check(self, learn_mass: bool, projected: bool) -> None:
        if learn_mass:
            raise ArgumentError(
                "VectorFieldRNN: learn_mass must be False here, the geometry has its own masses Pᵀ alpha"
            )
        if projected and self.rank < self.n - 1:
            raise ArgumentError(
                f"VectorFieldRNN: geometry must have a gradient of rank hidden_size - 1 ({self.n - 1}), got {self.rank}"
            )

    def buffer_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        return {k: (tuple(v.shape), None) for k, v in self.tensors.items()}

    def reset(self, parameters: dict[str, Tensor], generator: torch.Generator | None) -> None:
        for key, value in self.tensors.items():
            parameters[key].copy_(value)

    def of(self, parameters: dict[str, Tensor]) -> Any:
        return LatentGeometry(parameters["gradient"], parameters["means"], parameters["cell_weight"])

    def mass(self, parameters: dict[str, Tensor]) -> Tensor:
        return parameters["means"].T @ parameters["cell_weight"]


class FreePlace(FixedPlace):
    """Gradient, means and weights of the cells are learned: G centred row by row, P by softmax, alpha by softplus."""

    def __init__(self, n: int, cells: int) -> None:
        self.n, self.cells = n, cells
        self.rank = min(_COMPONENTS * cells, n - 1)
        self.field_shape = (cells, _COMPONENTS)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        m, n = self.cells, self.n
        return {"theta_gradient": (m * _COMPONENTS, n), "theta_means": (m, n), "theta_weight": (m,)}

    def buffer_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        return {}

    def reset(self, parameters: dict[str, Tensor], generator: torch.Generator | None) -> None:
        parameters["theta_gradient"].normal_(0, self.n**-0.5, generator=generator)
        parameters["theta_means"].normal_(generator=generator)
        # masses of mean 1
        parameters["theta_weight"].fill_(math.log(math.expm1(self.n / self.cells)))

    def of(self, parameters: dict[str, Tensor]) -> Any:
        raw = parameters["theta_gradient"]
        means = torch.softmax(parameters["theta_means"], 1)
        weight = torch.nn.functional.softplus(parameters["theta_weight"])
        return LatentGeometry(raw - raw.mean(1, keepdim=True), means, weight)

    def mass(self, parameters: dict[str, Tensor]) -> Tensor:
        return self.of(parameters).mu


def choose(geometry: Any, n: int, n_cells: int | None) -> CompletePlace:
    """The geometry that an argument names or holds.

    Raises:
        ArgumentError: It is none of those that there are.
    """
    if n_cells is not None and not (isinstance(geometry, str) and geometry == "free"):
        raise ArgumentError("VectorFieldRNN: n_cells must be None unless geometry='free'")
    # what is decided from values is decided on the CPU, whatever the default device
    with torch.device("cpu"):
        return _choose(geometry, n, n_cells)


def _choose(geometry: Any, n: int, n_cells: int | None) -> CompletePlace:
    if isinstance(geometry, LatentGeometry):
        return FixedPlace(n, geometry)
    if not isinstance(geometry, str):
        return GraphPlace(n, check_edges(geometry, n))
    if geometry not in NAMES:
        raise ArgumentError(
            f"VectorFieldRNN: geometry must be one of {', '.join(map(repr, NAMES))}, pairs of points or a LatentGeometry, "
            f"got {geometry!r}{nearest(geometry, NAMES)}"
        )
    if geometry == "complete":
        return CompletePlace(n)
    return FreePlace(n, n_cells or n) if geometry == "free" else GraphPlace(n, named_edges(geometry, n))
