"""A transformer encoder of continuous depth: R(h) = u + MLP(LN1(h + u)) with u = SA(LN0(h)).

One Euler step of length 1 is one pre-norm encoder layer. Weights are functions of depth; all layers share one rate.

Source: Stateful ODE-Nets using Basis Function Expansions, arXiv:2106.10820.
Differs from the released code: padding is masked and dropout acts (there both are configured and never used);
``mask=False`` and ``dropout=0.0`` bring that back.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._checks import Boolean, Integer, OneOf, Real, check
from .._errors import ArgumentError
from ..numerics.basis import Basis, PiecewiseConstant
from .block import ContinuousBlock

ACTIVATIONS = {"elu": F.elu, "relu": F.relu, "gelu": F.gelu}
_RULES = {
    "embed_dim": Integer(low=1),
    "num_heads": Integer(low=1),
    "mlp_dim": Integer(low=1, optional=True),
    "vocab_size": Integer(low=1),
    "num_tags": Integer(low=1),
    "dropout": Real(low=0, high=1, closed="left"),
    "activation": OneOf(tuple(ACTIVATIONS)),
    "mask": Boolean(),
}
_ONE_CELL = PiecewiseConstant(1)


def _draw(linear: nn.Linear) -> None:
    nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        nn.init.normal_(linear.bias, std=1e-6)


class TransformerUnit(nn.Module):
    """The rate of an encoder: attention and MLP with pre-normalisation, without the outer residual connection.

    Args:
        embed_dim: Width E.
        num_heads: Attention heads; E must be a multiple.
        mlp_dim: Width of the MLP; E when left out.
        dropout: Dropout of attention weights and of both branches.
        activation: ``"elu"``, ``"relu"`` or ``"gelu"``.
        norm_eps: Epsilon of the layer norms.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        mlp_dim: int | None = None,
        *,
        dropout: float = 0.0,
        activation: str = "elu",
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        check(_RULES, locals(), "TransformerUnit")
        if embed_dim % num_heads:
            raise ArgumentError(
                f"TransformerUnit: num_heads must divide embed_dim, got embed_dim={embed_dim}, num_heads={num_heads}"
            )
        hidden = mlp_dim or embed_dim
        self.norm1, self.norm2 = nn.LayerNorm(embed_dim, norm_eps), nn.LayerNorm(embed_dim, norm_eps)
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.out = nn.Linear(embed_dim, embed_dim, bias=False)
        self.linear1, self.linear2 = nn.Linear(embed_dim, hidden), nn.Linear(hidden, embed_dim)
        self.num_heads, self.dropout, self.activation = num_heads, dropout, activation
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for part in self.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(part)
        for linear in (self.out, self.linear1, self.linear2):
            _draw(linear)

    def forward(self, h: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """The rate, ``(B, L, E)`` to the same.

        Args:
            h: Hidden states.
            key_padding_mask: ``(B, L)``, true where there is padding.
        """
        b, length, width = h.shape
        rate = self.dropout if self.training else 0.0
        q, k, v = (
            t.reshape(b, length, self.num_heads, -1).transpose(1, 2) for t in self.qkv(self.norm1(h)).chunk(3, -1)
        )  # (B, heads, L, E / heads)
        keep = None if key_padding_mask is None else ~key_padding_mask[:, None, None, :]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=keep, dropout_p=rate)
        u = F.dropout(self.out(attended.transpose(1, 2).reshape(b, length, width)), rate)  # (B, L, E)
        inner = ACTIVATIONS[self.activation](self.linear1(self.norm2(h + u)))
        return u + F.dropout(self.linear2(inner), rate)


class ContinuousTransformerEncoder(nn.Module):
    """A pre-norm transformer encoder of continuous depth.

    Args:
        embed_dim: Width E.
        num_heads: Attention heads.
        mlp_dim: Width of the MLP; E when left out.
        basis: Functions of depth.
        solver: Scheme.
        n_steps: Steps; one for each cell when left out.
        scale: Factor of the rate.
        dropout: Dropout inside the unit.
        activation: Of the MLP.
        norm_eps: Epsilon of the layer norms.
        mask: Whether padding is masked; ``False`` reproduces the release.
        **block: Further options of :class:`ContinuousBlock`.

    Shape:
        ``(B, L, E)`` to the same.

    Source:
        arXiv:2106.10820.

    Example:
        >>> import torch
        >>> from gyrostat import ContinuousTransformerEncoder, PiecewiseConstant
        >>> encoder = ContinuousTransformerEncoder(16, 2, basis=PiecewiseConstant(4))
        >>> encoder(torch.zeros(2, 5, 16)).shape
        torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        mlp_dim: int | None = None,
        *,
        basis: Basis = _ONE_CELL,
        solver: str = "euler",
        n_steps: int | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
        activation: str = "elu",
        norm_eps: float = 1e-6,
        mask: bool = True,
        **block: Any,
    ) -> None:
        super().__init__()
        check(_RULES, locals(), "ContinuousTransformerEncoder")
        unit = TransformerUnit(embed_dim, num_heads, mlp_dim, dropout=dropout, activation=activation, norm_eps=norm_eps)
        self.block = ContinuousBlock(unit, basis, solver, n_steps, scale, **{"init": "independent", **block})
        self.mask = mask

    def forward(self, x: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        """Encode.

        Args:
            x: Embedded tokens ``(B, L, E)``.
            src_key_padding_mask: ``(B, L)``, true where there is padding.
        """
        return self.block(x, src_key_padding_mask if self.mask else None)


def sinusoidal_positions(length: int, width: int) -> Tensor:
    """Fixed positions: sin(p w_j) and cos(p w_j) interleaved, w_j = 10000^(-2j / E); ``(length, width)``."""
    position = torch.arange(length, dtype=torch.float64)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
    table = torch.zeros(length, width, dtype=torch.float64)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency[: width // 2])
    return table.float()


class ContinuousTagger(nn.Module):
    """A part-of-speech tagger: embedding, positions, encoder of continuous depth, layer norm, linear.

    Args:
        vocab_size: Number of tokens; 0 is padding.
        num_tags: Number of tags.
        embed_dim: Width E.
        num_heads: Attention heads.
        mlp_dim: Width of the MLP; E when left out.
        max_length: Longest sentence.
        dropout: Dropout inside the units.
        **encoder: Further options of :class:`ContinuousTransformerEncoder`.

    Shape:
        Tokens ``(B, L)`` to logits ``(B, L, num_tags)``.

    Source:
        arXiv:2106.10820.

    Example:
        >>> import torch
        >>> from gyrostat import ContinuousTagger
        >>> ContinuousTagger(50, 7, embed_dim=16)(torch.ones(2, 5, dtype=torch.long)).shape
        torch.Size([2, 5, 7])
    """

    positions: Tensor

    def __init__(
        self,
        vocab_size: int,
        num_tags: int,
        *,
        embed_dim: int = 128,
        num_heads: int = 1,
        mlp_dim: int | None = None,
        max_length: int = 512,
        dropout: float = 0.0,
        **encoder: Any,
    ) -> None:
        super().__init__()
        check(_RULES, locals(), "ContinuousTagger")
        Integer(low=1).check("max_length", max_length, "ContinuousTagger")
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.register_buffer("positions", sinusoidal_positions(max_length, embed_dim), persistent=False)
        self.encoder = ContinuousTransformerEncoder(embed_dim, num_heads, mlp_dim, dropout=dropout, **encoder)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, num_tags)
        _draw(self.head)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tag sentences.

        Args:
            tokens: ``(B, L)`` integers, 0 for padding.

        Returns:
            Logits ``(B, L, num_tags)``.

        Raises:
            ArgumentError: A sentence longer than ``max_length``.
        """
        if tokens.shape[1] > len(self.positions):
            raise ArgumentError(
                f"ContinuousTagger: tokens has length {tokens.shape[1]}, more than max_length={len(self.positions)}; "
                "shorten the sentences or build with a larger max_length"
            )
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]  # (B, L, E)
        return self.head(self.norm(self.encoder(x, tokens == 0)))
