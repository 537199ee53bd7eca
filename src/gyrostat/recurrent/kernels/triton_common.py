"""What the Triton kernels share: which sizes they take, in which precision they multiply, and their random numbers.

One program owns 16 rows of the batch and walks all T steps; the recurrent matrices stay in shared memory throughout. The
input products, and the sums over time that make weight gradients, are large matrix products and left to torch.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ...numerics.philox import NORMAL, UNIFORM
from . import shapes

ROWS = 16  # the smallest tile of a tensor core
PRECISIONS = {"highest": "ieee", "high": "tf32", "medium": "bf16"}
# hidden sizes up to which the matrices fit beside the state: beyond, registers spill or shared memory ends
LARGEST = {
    "euler": {"ieee": 64, "tf32": 128, "bf16": 128},
    "midpoint": {"ieee": 32, "tf32": 128, "bf16": 128},
    "lem": {"ieee": 32, "tf32": 64, "bf16": 128},
}
PHI = {"tanh": 0, "relu": 1, "sigmoid": 2, "identity": 3}
NOISE = {"none": 0, "sde": 1, "scalar": 2, "released": 3, "given": 4}
NORMAL_LAW, UNIFORM_LAW = tl.constexpr(NORMAL), tl.constexpr(UNIFORM)


def precision() -> str:
    """How to multiply, as ``torch.get_float32_matmul_precision`` says: ``ieee``, ``tf32`` or ``bf16``."""
    return PRECISIONS[shapes.precision()]


def too_large(kind: str, H: int) -> str:
    """Why a hidden size does not fit, or nothing."""
    name = precision()
    limit = LARGEST[kind][name]
    if limit >= H:
        return ""
    fits = next((p for p, short in PRECISIONS.items() if LARGEST[kind][short] >= H), None)
    cure = f"torch.set_float32_matmul_precision({fits!r}) takes it" if fits else "no precision changes that"
    return f"hidden_size {H} is above {limit}, the most that fits a GPU core in precision {name}; {cure}"


def padded(H: int) -> int:
    """The power of two that a tile of H units takes."""
    return max(ROWS, triton.next_power_of_2(H))


def launch(H: int) -> dict[str, Any]:
    """Tile, precision and warps for one program; loads are not pipelined, which would fill shared memory."""
    size = padded(H)
    return {"ROWS": ROWS, "HP": size, "PRECISION": precision(), "num_warps": min(16, size // 8), "num_stages": 1}


def pointer(t: Tensor | None, instead: Tensor) -> Tensor:
    """A tensor for an argument that a kernel's constants say it never reads."""
    return instead if t is None or t.numel() == 0 else t


def step_kind(dt: Tensor | None) -> int:
    """0 one step for all, 1 one for each unit ``(H,)``, 2 one for each row and time ``(T, B)``."""
    return 0 if dt is None else dt.ndim


def summed(grad: Tensor, reads: Tensor) -> Tensor:
    """Gradient of a weight over time and batch, as one large product: ``(T, B, M)`` and ``(T, B, N)`` to ``(M, N)``."""
    return grad.flatten(0, -2).T @ reads.flatten(0, -2)


def optional(found: list[Any], needs: list[bool], like: Tensor) -> list[Tensor]:
    """The gradients asked for; an empty tensor for each of the others, which an operator cannot leave out."""
    return [f if n and f is not None else like.new_empty(0) for f, n in zip(found, needs, strict=True)]


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """The product a b with float32 sums."""
    if PRECISION == "bf16":
        found = tl.dot(a.to(tl.bfloat16), b)
    else:
        found = tl.dot(a, b, input_precision=PRECISION)
    return found


@triton.jit
def matrix(p, rows, columns, H, stride_row, stride_column, PRECISION: tl.constexpr):
    """A tile of a square matrix, zero beyond H, in the type of the products."""
    inside = (rows[:, None] < H) & (columns[None, :] < H)
    found = tl.load(p + rows[:, None] * stride_row + columns[None, :] * stride_column, mask=inside, other=0.0)
    if PRECISION == "bf16":
        found = found.to(tl.bfloat16)
    return found


@triton.jit
def sigmoid(a):
    """1 / (1 + e^-a) without overflow for either sign; NaN stays NaN."""
    small = tl.exp(-tl.abs(a))
    return tl.where(a >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def tanh(a):
    """Tanh by expm1-like terms for small arguments, so that digits are not lost near zero."""
    square = a * a
    small = a * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 + square * (-17.0 / 315.0))))
    decay = tl.exp(-2.0 * tl.abs(a))
    large = (1.0 - decay) / (1.0 + decay)
    return tl.where(tl.abs(a) < 0.1, small, tl.where(a < 0, -large, large))


@triton.jit
def activation(a, PHI: tl.constexpr):
    """φ(a)."""
    if PHI == 0:
        return tanh(a)
    elif PHI == 1:
        return tl.where(a < 0, 0.0, a)  # NaN passes
    elif PHI == 2:
        return sigmoid(a)
    return a


@triton.jit
def slope(p, PHI: tl.constexpr):
    """φ' from the value of φ."""
    if PHI == 0:
        return 1.0 - p * p
    elif PHI == 1:
        return tl.where(p > 0, 1.0, 0.0)
    elif PHI == 2:
        return p * (1.0 - p)
    return p * 0.0 + 1.0


@triton.jit
def words(seed, rows, units, law):
    """The four Philox words of each place, and which of them the unit takes (see ``numerics/philox.py``)."""
    block = 16 * (units // 64) + units % 16
    nothing = rows[:, None] * 0 + block[None, :] * 0
    c0, c1 = (nothing + block[None, :]).to(tl.uint32), (nothing + rows[:, None]).to(tl.uint32)
    c2, c3 = (nothing + law).to(tl.uint32), nothing.to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, c0, c1, c2, c3, 10)
    return w0, w1, w2, w3, (units // 16) % 4


@triton.jit
def between(word):
    """A word as a number in (0, 1), exact in float32."""
    return ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07


@triton.jit
def normals(seed, rows, units):
    """Standard normal numbers of one step."""
    w0, w1, w2, w3, lane = words(seed, rows, units, NORMAL_LAW)
    late = (lane // 2)[None, :] == 1
    first, second = between(tl.where(late, w2, w0)), between(tl.where(late, w3, w1))
    radius, angle = tl.sqrt(-2.0 * tl.log(first)), second * 6.283185307179586
    return radius * tl.where((lane % 2)[None, :] == 1, tl.sin(angle), tl.cos(angle))


@triton.jit
def uniforms(seed, rows, units):
    """Uniform numbers of one step."""
    w0, w1, w2, w3, lane = words(seed, rows, units, UNIFORM_LAW)
    i = lane[None, :]
    return between(tl.where(i == 0, w0, tl.where(i == 1, w1, tl.where(i == 2, w2, w3))))
