"""Influence through a head of the paper's size: 3,200 training and 10,000 test images, 2,048 features, 10 classes.

    python benchmarks/influence.py [float32|float64] [--solver woodbury|cholesky] [--features 2048]

Beside it, in the same run, the floor: the multiplications and additions of the way taken, at the rate of this machine's
products of two matrices. With D = 2,049, C = 10, p = 9 D, m = 3,200 and n = 10,000:

    woodbury   C blocks m D² + D³ / 3,  their products with the features m D² + m² D,  m³ / 3 + 2 m³ for the correction,
               solution C (2 m D² + 2 m² D),  scores 2 p m n
    cholesky   45 blocks of the curvature 2 · 45 m D²,  factor p³ / 3,  two triangular solves 2 p² m,  scores 2 p m n
"""

import argparse
import resource
import time

import torch
from torch import nn

from gyrostat import influence_scores


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dtype", nargs="?", default="float64", choices=["float32", "float64"])
    parser.add_argument("--solver", default="auto", choices=["auto", "woodbury", "cholesky"])
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
    found = influence_scores(model, (x, y), (xt, yt), l2=5e-4, dtype=dtype, solver=given.solver)
    seconds = time.perf_counter() - started
    C, m, n, D = model.out_features, len(x), len(xt), d + 1
    p = (C - 1) * D  # softmax does not see one class
    ways = {
        "woodbury": {
            "blocks": C * (m * D**2 + D**3 / 3),
            "products": C * (m * D**2 + m**2 * D),
            "correction": m**3 / 3 + 2 * m**3,
            "solution": C * (2 * m * D**2 + 2 * m**2 * D),
        },
        "cholesky": {"curvature": C * (C - 1) * m * D**2, "factor": p**3 / 3, "solves": 2 * p**2 * m},
    }
    counts = ways[found.solver] | {"scores": 2 * p * m * n}
    rate = products_per_second(dtype, g)
    floor = sum(counts.values()) / rate
    print(
        f"{found.n_parameters} parameters, {given.dtype}, {found.solver}: {seconds:.1f} s, residual {found.residual:.1e}"
    )
    print(f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
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
