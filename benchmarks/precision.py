"""Inference with float32, bf16x3 and bf16 products: time of each against float32 in the same run, and the error.

    python benchmarks/precision.py                       four sizes: some 90 seconds
    python benchmarks/precision.py --size 784,128,128    a size of your own, may be repeated: T,B,H

The best engine there is multiplies (AMX, otherwise AVX512-BF16) at both precisions, also where the library would not choose
it unasked. Samples are taken as in ``recurrent.py``; the error is that of the last state against float64, relative to the
largest number in it. The weights are random numbers of variance 1/H, steps of 0.03.
"""

from __future__ import annotations

import argparse
import os

import torch

from gyrostat import LEM, LipschitzRNN
from gyrostat.recurrent.kernels import bf16, describe
from recurrent import SIZES, interleave

CELLS = {"lipschitz": (LipschitzRNN, {}), "midpoint": (LipschitzRNN, {"solver": "midpoint"}), "lem": (LEM, {})}


def last(layer: torch.nn.Module, x: torch.Tensor, precision: str) -> torch.Tensor:
    torch.set_float32_matmul_precision(precision)
    with torch.no_grad():
        _, state = layer(x, sequence=False)
    torch.set_float32_matmul_precision("highest")
    return state[0] if isinstance(state, tuple) else state


def layers(name: str, H: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A layer and the same in float64."""
    kind, options = CELLS[name]
    single, double = (kind(1, H, dt=0.03, dtype=t, **options) for t in (torch.float32, torch.float64))
    with torch.no_grad():
        for p in single.parameters():
            if p.ndim == 2 and p.shape[1] == H:
                p.normal_(std=H**-0.5)
    double.load_state_dict({k: v.double() for k, v in single.state_dict().items()})
    return single, double


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", type=lambda s: tuple(int(v) for v in s.split(",")), help="T,B,H")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=22.0, help="seconds for a size")
    o = parser.parse_args()
    engines = bf16._load()[1]
    kind = next((name for name, (bit, *_) in bf16.ENGINES.items() if engines & bit), None)
    if kind is None:
        raise SystemExit(f"nothing to measure: {bf16.engine('medium')[1]}")
    os.environ["GYROSTAT_ISA"] = kind
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {describe()['library']}, {bf16.ENGINES[kind][2]}\n"
    )
    print("| (T, B, H) | cell | float32, ms | bf16x3 | bf16 | error float32 | bf16x3 | bf16 |\n" + "|---" * 8 + "|")
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    for T, B, H in o.size or SIZES:
        x = torch.randn(T, B, 1)
        pairs = {name: layers(name, H) for name in CELLS}
        tasks = {
            (name, p): lambda layer=single, x=x, p=p: last(layer, x, p)
            for name, (single, _) in pairs.items()
            for p in ("highest", "high", "medium")
        }
        times = interleave(tasks, o.rounds, o.budget)
        for name, (single, double) in pairs.items():
            exact = last(double, x[:, :4].double(), "highest")
            error = {p: (last(single, x[:, :4], p) - exact).abs().max() / exact.abs().max() for _, p in tasks}
            base = times[name, "highest"]["seconds"]
            busy = "" if all(times[name, p]["clean"] for p in error) else " (busy)"
            ratio = {p: f"{base / times[name, p]['seconds']:.2f}" for p in error}
            print(
                f"| ({T}, {B}, {H}) | {name}{busy} | {1e3 * base:.3g} | {ratio['high']} | {ratio['medium']} | "
                + " | ".join(f"{e:.1e}" for e in error.values())
                + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
