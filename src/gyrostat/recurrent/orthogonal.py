"""Orthogonal RNN: the recurrent matrix is a point of SO(n), written by a skew matrix K.

    h⁺ = φ(W h + U x)            exp:  W = exp(K)      cayley:  W = (I - K/2)⁻¹ (I + K/2) Σ      dtriv:  W = W₀ exp(K)
    φ(a) = sign(a) relu(|a| + b)  (modrelu), or tanh, relu, identity of a + b

Source: Lezcano-Casado, Martínez-Rubio, arXiv:1901.08428, and Lezcano-Casado, arXiv:1909.09501; the divergence-free case of
    Azencot, Erichson, Ben-Chen, Mahoney, arXiv:2102.09589; the Cayley form is a baseline of arXiv:2006.12070, and with fixed
    signs Σ = diag(±1) that of Helfrich, Willmott, Ye, arXiv:1707.09520.
Differs from the released code: column convention; K is stored as its upper triangle, K = 2(C - Cᵀ) of the Cayley baseline.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import Integer, OneOf
from .._errors import ArgumentError
from ..numerics.operators import autocast_on, flow, skew_matrix, upper_triangle, widen
from ._cell_module import CellModule
from .cell import Cell, State, Step
from .layer import Recurrent

ACTIVATIONS = ("modrelu", "tanh", "relu", "identity")


class FlowCell(Cell):
    """h⁺ = φ(E h + U x) with E the map of a flow; subclasses say which."""

    time_step = False
    RULES = {"nonlinearity": OneOf(ACTIVATIONS), "init": OneOf(("henaff", "cayley"))}

    def __init__(
        self, input_size: int, hidden_size: int, *, bias: bool, dt: float, nonlinearity: str, init: str
    ) -> None:
        super().__init__(input_size, hidden_size, bias=bias, dt=dt)
        self.nonlinearity, self.init = nonlinearity, init
        self._kept: list[tuple[dict[str, Tensor], Tensor]] = []

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (self.hidden_size, self.input_size)}
        if self.bias:
            shapes["bias"] = (self.hidden_size,)
        return shapes

    def reset(self, parameters: dict[str, Tensor], generator: torch.Generator | None = None) -> None:
        parameters["weight_ih"].normal_(0, math.sqrt(2 / self.input_size), generator=generator)
        if self.bias:
            parameters["bias"].uniform_(-0.01, 0.01, generator=generator)

    def draw_skew(self, n: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """A block-diagonal skew matrix (n, n): random rotations of pairs of axes."""
        angles = torch.empty(n // 2, dtype=like.dtype, device=like.device)
        if self.init == "henaff":
            angles.uniform_(-math.pi, math.pi, generator=generator)
        else:
            angles = -torch.tan(angles.uniform_(0, math.pi / 2, generator=generator) / 2)
        K = like.new_zeros(n, n)
        first = 2 * torch.arange(n // 2, device=like.device)
        K[first, first + 1], K[first + 1, first] = angles, -angles
        return K

    def activation(self, a: Tensor, bias: Tensor | None) -> Tensor:
        """φ of the pre-activation ``(B, H)``."""
        if self.nonlinearity == "modrelu":
            return a if bias is None else torch.sign(a) * torch.relu(a.abs() + bias)
        a = a if bias is None else a + bias
        if self.nonlinearity == "identity":
            return a
        return torch.tanh(a) if self.nonlinearity == "tanh" else torch.relu(a)

    def matrix(self, parameters: dict[str, Tensor]) -> Tensor:
        """E (H, H), column convention."""
        raise TypeError(f"{type(self).__name__} has no matrix of its own")

    def gain(self, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Bounds on the singular values of E in the norm that its flow keeps: 1 and 1 where E is orthogonal."""
        one = parameters["weight_ih"].new_ones(())
        return one, one

    def wide(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parameters with half precision widened: a matrix exponential or a solve in bfloat16 is no flow any more."""
        return {k: widen(p) for k, p in parameters.items()}

    def prepared_matrix(self, parameters: dict[str, Tensor]) -> Tensor:
        """E in the type of the parameters, kept while gradients are off and nothing it comes from has changed."""
        weight = parameters["weight_ih"]
        own = {k: p for k, p in parameters.items() if k not in ("weight_ih", "bias")}
        wanted = torch.is_grad_enabled() and any(p.requires_grad for p in own.values())
        if wanted or opaque(own):
            return self.whole_matrix(parameters).to(weight.dtype)
        for known, E in self._kept:
            # by value, for a version counter does not see what is written through .data
            if all(_same(p, known[k]) for k, p in own.items()):
                return E
        with torch.inference_mode(False), torch.no_grad():
            E = self.whole_matrix(parameters).to(weight.dtype)
            known = {k: p.detach().clone() for k, p in own.items()}
        self._kept = [(known, E), *self._kept[:1]]  # two directions share a cell
        return E

    def whole_matrix(self, parameters: dict[str, Tensor]) -> Tensor:
        """E in float32 at least, autocast or not."""
        weight = parameters["weight_ih"]
        if not autocast_on(weight):
            return self.matrix(self.wide(parameters))
        with torch.autocast(weight.device.type, enabled=False):
            return self.matrix(self.wide(parameters))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": []}

    def prepare(self, parameters: dict[str, Tensor], dt: Step | None) -> dict[str, Tensor]:
        return {**parameters, "E": self.prepared_matrix(parameters)}

    def step(self, weights: dict[str, Tensor], x: Tensor, state: State, dt: Step, extras: State = ()) -> State:
        (h,) = state
        a = F.linear(h, weights["E"]) + F.linear(x, weights["weight_ih"])  # (B, H)
        return (self.activation(a.to(h.dtype), weights.get("bias")),)


def opaque(tensors: dict[str, Tensor]) -> bool:
    """Whether values may not be read: under compile, on the meta device, in forward mode and within ``torch.func``."""
    if torch.compiler.is_compiling():
        return True
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore[reportAttributeAccessIssue]
    return torch.autograd.forward_ad._current_level >= 0 or any(t.is_meta or wrapped(t) for t in tensors.values())


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


class OrthogonalRNNMath(FlowCell):
    """The orthogonal step."""

    name = "orthogonal"
    RULES = {"parameterization": OneOf(("exp", "cayley", "dtriv")), "negative_signs": Integer(0)}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        dt: float = 1.0,
        parameterization: str = "exp",
        nonlinearity: str = "modrelu",
        init: str = "henaff",
        negative_signs: int = 0,
    ) -> None:
        self.check(locals())
        super().__init__(input_size, hidden_size, bias=bias, dt=dt, nonlinearity=nonlinearity, init=init)
        if negative_signs and (parameterization != "cayley" or negative_signs > hidden_size):
            raise ArgumentError(
                f"OrthogonalRNN: negative_signs must be at most hidden_size ({hidden_size}) and needs "
                f"parameterization='cayley', got {negative_signs} with {parameterization!r}"
            )
        self.parameterization, self.negative_signs = parameterization, negative_signs

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        H = self.hidden_size
        return {**super().parameter_shapes(), "skew": (H * (H - 1) // 2,)}

    def buffer_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        if self.parameterization == "dtriv":
            return {"base": ((self.hidden_size, self.hidden_size), None)}
        return {"signs": ((self.hidden_size,), None)} if self.negative_signs else {}

    def reset(self, parameters: dict[str, Tensor], generator: torch.Generator | None = None) -> None:
        super().reset(parameters, generator)
        K = self.draw_skew(self.hidden_size, parameters["skew"], generator)
        if self.parameterization == "dtriv":
            parameters["base"].copy_(flow(K))
            K = torch.zeros_like(K)
        parameters["skew"].copy_(upper_triangle(K))
        if self.negative_signs:
            parameters["signs"].fill_(1)[: self.negative_signs] = -1

    def matrix(self, parameters: dict[str, Tensor]) -> Tensor:
        K = skew_matrix(parameters["skew"], self.hidden_size)
        if self.parameterization == "cayley":
            return flow(K, "cayley") * parameters.get("signs", 1)
        return parameters["base"] @ flow(K) if self.parameterization == "dtriv" else flow(K)


class OrthogonalRNN(Recurrent):
    """Orthogonal RNN with the contract of ``torch.nn.LSTM``; the state is one tensor.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H.
        num_layers: Stacked layers.
        **options: As :class:`Recurrent`, and ``parameterization="exp"`` (or ``"cayley"``, ``"dtriv"``),
            ``nonlinearity="modrelu"`` (or ``"tanh"``, ``"relu"``, ``"identity"``), ``init="henaff"`` (or ``"cayley"``).
            ``negative_signs=0``: so many columns of the Cayley form change sign, which reaches matrices with eigenvalues
            near -1. With ``"dtriv"`` call :meth:`rebase` every hundred updates or so; ``base`` is saved but not trained.

    Raises:
        ArgumentError: An argument is outside its rule (also a ``ValueError``).

    Source: arXiv:1901.08428, arXiv:1909.09501, baseline of arXiv:2102.09589 and arXiv:2006.12070.

    Example:
        >>> import torch
        >>> layer = OrthogonalRNN(3, 8)
        >>> torch.allclose(layer.W() @ layer.W().T, torch.eye(8), atol=1e-5)
        True
    """

    cell_class = OrthogonalRNNMath

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None:
        super().__init__(input_size, hidden_size, num_layers, **options)

    def W(self, k: int = 0, reverse: bool = False) -> Tensor:
        """The orthogonal matrix of layer ``k``, column convention."""
        cell: FlowCell = self.cells[k]  # pyright: ignore[reportAssignmentType]
        return cell.whole_matrix(self.parameters_of(k, reverse))

    @torch.no_grad()
    def rebase(self) -> None:
        """Move the base point of ``"dtriv"`` to the current matrix, made orthogonal anew; W does not change."""
        for k in range(self.num_layers):
            for backward in range(self.num_directions):
                own = self.parameters_of(k, bool(backward))
                if "base" in own:
                    u, _, vh = torch.linalg.svd(self.W(k, bool(backward)))
                    own["base"].copy_(u @ vh)
                    own["skew"].zero_()

    @classmethod
    def from_released(cls, state_dict: dict[str, Tensor], **options: Any) -> OrthogonalRNN:
        """A one-layer tanh model with the weights of the Cayley baseline (``E``, ``C``) of arXiv:2006.12070."""
        weight, C = state_dict["E.weight"], state_dict["C"]
        options = {"parameterization": "cayley", "nonlinearity": "tanh", **options}
        layer = cls(weight.shape[1], weight.shape[0], dtype=weight.dtype, **options)
        own = {"weight_ih_l0": weight, "bias_l0": state_dict["E.bias"], "skew_l0": upper_triangle(2 * (C - C.T))}
        layer.load_state_dict(own)
        return layer

    def to_released(self) -> dict[str, Tensor]:
        """The weights of a one-layer ``"cayley"`` model under the names of the Cayley baseline.

        Raises:
            ArgumentError: More than one layer or direction, another parameterisation, or signs.
        """
        self._only_one_layer("to_released")
        own = self.parameters_of()
        if list(own) != ["weight_ih", "bias", "skew"] or self.cells[0].parameterization != "cayley":  # pyright: ignore[reportAttributeAccessIssue]
            raise ArgumentError(
                "OrthogonalRNN: to_released() needs parameterization='cayley' with bias and without signs"
            )
        # only C - Cᵀ acts, so its skew half stands for C
        C = skew_matrix(own["skew"].detach(), self.hidden_size) / 4
        return {"E.weight": own["weight_ih"].detach().clone(), "E.bias": own["bias"].detach().clone(), "C": C}


class OrthogonalRNNCell(CellModule):
    """One orthogonal step as a module: ``(x, h) -> h``.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H.
        **options: The cell's options as in :class:`OrthogonalRNN`, ``device``, ``dtype``.

    Source: arXiv:1901.08428, arXiv:1909.09501.

    Example:
        >>> import torch
        >>> OrthogonalRNNCell(3, 8)(torch.randn(4, 3)).shape
        torch.Size([4, 8])
    """

    cell_class = OrthogonalRNNMath
