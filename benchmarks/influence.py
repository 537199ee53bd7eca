"""Influence through a head of the paper's size: 3,200 training and 10,000 test images, 2,048 features, 10 classes.

    python benchmarks/influence.py [float32|float64] [--features 2048]

Beside it, in the same run, the floor: the multiplications and additions that a direct solve needs, at the rate of this
machine's products of two matrices. With p = 9 · 2,049 free parameters, m = 3,200 the smaller and n = 10,000 the larger side:

    45 blocks of the curvature 2 · 45 m d²,  Cholesky p³ / 3,  two triangular solves 2 p² m,  scores 2 p m n
"""

import argparse
import time

import torch
from torch import nn

from gyrostat import influence_scores


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dtype", nargs="?", default="float64", choices=["float32", "float64"])
    parser.add_argument("--features", type=int, default=2048)
    given = parser.parse_args()
    dtype, d = getattr(torch, given.dtype), given.features
    g = torch.Generator().manual_seed(0)
    x, xt = (torch.randn(n, d, generator=g).relu() for n in (3200, 10000))
    model = nn.Linear(d, 10)
    with torch.no_grad():
        model.weight.normal_(std=3 * d**-0.5, generator=g)
        y, yt = model(x).argmax(1), model(xt).argmax(1)
    started = time.perf_counter()
    found = influence_scores(model, (x, y), (xt, yt), l2=5e-4, dtype=dtype)
    seconds = time.perf_counter() - started
    # softmax does not see one class: K = 9 of the 10 count
    K, m, n = model.out_features - 1, len(x), len(xt)
    p = K * (d + 1)
    counts = {
        "curvature": K * (K + 1) * m * (d + 1) ** 2,
        "Cholesky": p**3 / 3,
        "solves": 2 * p**2 * m,
        "scores": 2 * p * m * n,
    }
    rate = products_per_second(dtype, g)
    floor = sum(counts.values()) / rate
    print(f"{found.n_parameters} parameters, {given.dtype}: {seconds:.1f} s, residual {found.residual:.1e}")
    print("operations: " + ", ".join(f"{name} {count:.2e}" for name, count in counts.items()))
    print(f"floor at {rate / 1e9:.0f} billion operations per second: {floor:.1f} s; ratio {seconds / floor:.2f}")


def products_per_second(dtype: torch.dtype, generator: torch.Generator, size: int = 4096) -> float:
    """Multiplications and additions per second in the product of two square matrices, the best of three."""
    A = torch.randn(size, size, generator=generator, dtype=dtype)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        A @ A
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


if __name__ == "__main__":
    main()
