"""The five largest Hessian eigenvalues of a model with 2.5 million parameters: products, seconds, and memory.

    python benchmarks/hessian_memory.py                 all Lanczos vectors kept
    python benchmarks/hessian_memory.py --basis 14      fourteen of them, with restarts

The peak counts everything that the process takes beyond the model and the data: vectors, and the graph of the loss.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
import torch.nn.functional as F

from gyrostat import LEM, hessian_spectrum


class Classifier(torch.nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.rnn = LEM(32, hidden_size, dt=0.3, backend="reference")
        self.out = torch.nn.Linear(hidden_size, 10)

    def forward(self, x):
        return self.out(self.rnn(x.transpose(0, 1))[0][-1])


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--basis", type=int, default=None)
    parser.add_argument("--hidden-size", type=int, default=768)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = Classifier(options.hidden_size)
    data = torch.randn(64, 8, 32), torch.arange(64) % 10
    before, start = peak(), time.perf_counter()
    found = hessian_spectrum(model, F.cross_entropy, data, 5, None, ends="largest", tol=1e-3, basis=options.basis)
    print(f"{found.n_parameters} parameters, {found.products} products in {time.perf_counter() - start:.1f} s")
    print(f"peak {peak() - before:.0f} MB; {found.message}")
    print("largest:", ", ".join(f"{value:.5f}" for value in found.largest.tolist()))


if __name__ == "__main__":
    main()
