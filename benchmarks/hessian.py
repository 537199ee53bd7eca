"""Top Hessian eigenvalue of a recurrent classifier: gyrostat beside PyHessian, interleaved, in one process.

    pip install --no-deps pyhessian         gyrostat alone where PyHessian is not importable
    python benchmarks/hessian.py

The model is a Lipschitz RNN with 128 units (34,314 parameters) on 500 sequences; both libraries are asked for the top
eigenvalue to a relative tolerance of 1e-3, and each answer's residual ‖Hv − λv‖/|λ| is printed. PyHessian stops by the change
of the value, so its residual is larger; the last row is gyrostat again, stopped at the residual that PyHessian reached.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time

import torch
import torch.nn.functional as F

from gyrostat import LipschitzRNN, hessian_spectrum
from gyrostat.analysis.hessian import HessianOperator


class Classifier(torch.nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.rnn = LipschitzRNN(1, hidden_size, dt=0.03, backend="reference")
        self.out = torch.nn.Linear(hidden_size, 10)

    def forward(self, x):
        return self.out(self.rnn(x.transpose(0, 1))[0][-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=500)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = Classifier(options.hidden_size)
    x, y = torch.rand(options.sequences, options.steps, 1), torch.arange(options.sequences) % 10
    operator = HessianOperator(model, F.cross_entropy, [(x, y)], "benchmark")

    def residual(v, value):
        v = v / v.norm()
        return float((operator(v) - value * v).norm()) / abs(value)

    def ours(tol=1e-3):
        found = hessian_spectrum(model, F.cross_entropy, (x, y), 1, None, ends="largest", tol=tol)
        return float(found.largest[0]), found.top_vector, found.products

    def peer():
        # eigenvalues() is PyHessian's power iteration: at most maxIter products, stopped by the change of the value
        from pyhessian import hessian

        computer = hessian(model.eval(), F.cross_entropy, data=(x, y), cuda=False)
        values, vectors = computer.eigenvalues(maxIter=200, tol=1e-3, top_n=1)
        model.zero_grad(set_to_none=True)
        return values[0], torch.cat([part.reshape(-1) for part in vectors[0]]), None

    cases = {"gyrostat": ours}
    try:
        import pyhessian  # noqa: F401

        cases |= {"PyHessian": peer, "gyrostat at that residual": ours}
    except ImportError:
        print("PyHessian is not installed; gyrostat alone")
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    answers = {}
    for _ in range(options.repeats):
        for name, case in cases.items():
            if name == "gyrostat at that residual":
                target = residual(answers["PyHessian"][1], answers["PyHessian"][0])
                case = functools.partial(ours, 2 * target)  # the iteration stops at half the tolerance
            start = time.perf_counter()
            answers[name] = case()
            seconds[name].append(time.perf_counter() - start)
    print(f"{operator.n} parameters, {options.sequences} sequences of {options.steps} steps")
    for name, (value, vector, products) in answers.items():
        note = f", {products} products" if products else ""
        print(
            f"{name:26s} {statistics.median(seconds[name]):7.2f} s   top eigenvalue {value:.6f}   "
            f"relative residual {residual(vector, value):.1e}{note}"
        )


if __name__ == "__main__":
    main()
