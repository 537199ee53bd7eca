"""Noisy recurrent neural network: the Lipschitz RNN as a stochastic differential equation, noisy in training only.

    dh = f(h, x) dt + (σ₁ I + σ₂ diag f(h, x)) dB,      f = α A h + φ(W h + U x + b)
    sde       h⁺ = h + dt f + √dt (σ₁ + σ₂ f) ⊙ ξ,                            ξ ~ N(0, I)
    released  h⁺ = h + d ⊙ (m q + 1 - m) ⊙ f + a Z,      q ~ U(0, 1), Z ~ N(0, I), d one step per unit
    injected  h⁺ = h + d ⊙ factor ⊙ f + additive

Source: Lim, Erichson, Hodgkinson, Mahoney, Noisy Recurrent Neural Networks, NeurIPS 2021, arXiv:2102.04877.
Differs from the released code: noise follows ``module.training`` and a generator; the ``sde`` form scales with √dt, is
Gaussian and drives both terms by one ξ; ``noise_form="released"`` keeps the code's law (no √dt, uniform factor).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._checks import OneOf, Real
from .._errors import ArgumentError, ShapeError
from ..numerics.philox import draw_seeds, normal, uniform
from ._cell_module import CellModule
from .cell import State, Step, root_of_step
from .lipschitz import LipschitzRNN, LipschitzRNNMath


class NoisyRNNMath(LipschitzRNNMath):
    """The Noisy RNN step; without noise it is the Lipschitz RNN step."""

    name = "noisy"
    RULES = {
        "solver": OneOf(("euler",)),
        "additive_noise": Real(0),
        "multiplicative_noise": Real(0),
        "noise_form": OneOf(("sde", "released")),
        "brownian": OneOf(("diagonal", "scalar")),
    }

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        additive_noise: float = 0.02,
        multiplicative_noise: float = 0.02,
        noise_form: str = "sde",
        brownian: str = "diagonal",
        **options: Any,
    ) -> None:
        self.check({**options, **locals()})
        super().__init__(input_size, hidden_size, **options)
        self.additive_noise, self.multiplicative_noise = additive_noise, multiplicative_noise
        self.noise_form, self.brownian = noise_form, brownian

    def extras(
        self,
        steps: int,
        state: Tensor,
        training: bool,
        *,
        generator: torch.Generator | None = None,
        noise: tuple[Tensor, Tensor] | None = None,
        **options: Any,
    ) -> State:
        """One seed per step, or the given ``(additive, factor)``; none in evaluation, which consumes no randomness."""
        if options:
            return super().extras(steps, state, training, **options)
        B, H = state.shape
        if noise is not None:
            for given in noise:
                if given.shape != (steps, B, H):
                    raise ShapeError(f"noise must be two tensors of shape {(steps, B, H)}, got {tuple(given.shape)}")
            return tuple(n.to(state) for n in noise)
        silent = self.additive_noise == 0 and self.multiplicative_noise == 0
        return () if not training or silent or steps == 0 else (draw_seeds(steps, state.device, generator),)

    def draws(self, extras: State, state: Tensor) -> State:
        """Seeds to noise: ``(ξ,)`` or ``(additive, factor)``, the numbers that the fused kernels draw by themselves."""
        if len(extras) != 1:
            return extras
        (seeds,) = extras
        B, H = state.shape
        if self.noise_form == "sde":
            return (normal(seeds, B, H if self.brownian == "diagonal" else 1, state),)
        a, m = self.additive_noise, self.multiplicative_noise
        additive = a * normal(seeds, B, H, state) if a else state.new_zeros(len(seeds), B, H)
        factor = m * uniform(seeds, B, H, state) + (1 - m) if m else state.new_ones(len(seeds), B, H)
        return additive, factor

    def step(self, weights: dict[str, Any], x: Tensor, state: State, dt: Step, extras: State = ()) -> State:
        if not extras:
            return super().step(weights, x, state, dt)
        (h,) = state
        f = self.drift(weights, x)(h)  # (B, H)
        if len(extras) == 2:
            additive, factor = extras
            return (h + (dt * (factor * f) + additive),)
        (xi,) = extras
        return (h + (dt * f + root_of_step(dt) * ((self.additive_noise + self.multiplicative_noise * f) * xi)),)


class NoisyRNN(LipschitzRNN):
    """Noisy RNN: a :class:`LipschitzRNN` with noise inside the recurrence while ``layer.training``.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H.
        num_layers: Stacked layers.
        **options: Everything of :class:`LipschitzRNN` (Euler only) and

            * ``additive_noise=0.02`` (σ₁, or the released a), ``multiplicative_noise=0.02`` (σ₂, or m);
            * ``noise_form="sde"`` or ``"released"``;
            * ``brownian="diagonal"``: one Brownian motion per unit, or ``"scalar"``: one for all.

    In ``forward``: ``generator=`` draws from your own stream; ``noise=(additive, factor)``, each ``(T, B, H)``, injects
    given draws, in evaluation too.

    Raises:
        ArgumentError: An argument is outside its rule (also a ``ValueError``).

    Source: arXiv:2102.04877.

    Example:
        >>> import torch
        >>> layer = NoisyRNN(3, 8, additive_noise=0.05)
        >>> x, g = torch.randn(5, 2, 3), torch.Generator().manual_seed(0)
        >>> noisy, _ = layer(x, generator=g)
        >>> clean, _ = layer.eval()(x)
        >>> bool((noisy - clean).abs().max() > 0)
        True
    """

    cell_class = NoisyRNNMath

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        dt: Any = None,
        sequence: bool = True,
        generator: torch.Generator | None = None,
        noise: Sequence[Tensor] | None = None,
    ) -> tuple[Any, Any]:
        """As :meth:`Recurrent.forward`; ``noise`` needs a single layer and direction."""
        if noise is not None and (self.num_layers > 1 or self.bidirectional):
            raise ArgumentError("NoisyRNN: noise can be injected into one layer and direction only; use generator=")
        return super().forward(x, state, lengths=lengths, dt=dt, sequence=sequence, generator=generator, noise=noise)


class NoisyRNNCell(CellModule):
    """One Noisy RNN step as a module: ``(x, h) -> h``, noisy while training.

    Args:
        input_size: Features F of the input.
        hidden_size: Units H.
        **options: The cell's options as in :class:`NoisyRNN`, ``device``, ``dtype``.

    Source: arXiv:2102.04877.

    Example:
        >>> import torch
        >>> NoisyRNNCell(3, 8)(torch.randn(4, 3)).shape
        torch.Size([4, 8])
    """

    cell_class = NoisyRNNMath
