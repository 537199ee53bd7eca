"""Influence through a head of the paper's size: 3,200 training and 10,000 test images, 2,048 features, 10 classes.

    python benchmarks/influence.py [float32|float64] [--features 2048]

Beside it, in the same run, a single multiplication of two matrices of the head's size: the unit in which to read the time.
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
    size = 4096
    A = torch.randn(size, size, generator=g, dtype=dtype)
    started = time.perf_counter()
    A @ A
    unit = (time.perf_counter() - started) * (found.n_parameters / size) ** 3
    print(f"{found.n_parameters} parameters, {given.dtype}: {seconds:.1f} s, residual {found.residual:.1e}")
    print(
        f"a product of two {found.n_parameters} x {found.n_parameters} matrices: {unit:.1f} s; ratio {seconds / unit:.2f}"
    )


if __name__ == "__main__":
    main()
