"""Named random streams: every consumer of randomness derives its own from one seed, and nobody shares.

``numpy_stream(7, "split")`` and ``torch_stream(7, "noise", 3)`` depend on the seed and the names alone: adding a new
consumer never shifts the numbers of another one. Nothing here touches the global streams.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed derived from ``seed`` and the stream's names."""
    text = "\x1f".join([str(int(seed)), *(str(n) for n in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_stream(seed: int, *names: str | int) -> numpy.random.Generator:
    """A numpy generator (PCG64) of its own for ``names``."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(derive_seed(seed, *names)))


def torch_stream(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator of its own for ``names``, on ``device``."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))
