"""Recurrent layers on a GPU: microseconds per step, beside cuDNN and the plain loop, and how far they are from float64.

    python benchmarks/recurrent_gpu.py                                   the sizes of the plan: a few minutes
    python benchmarks/recurrent_gpu.py --size 1024,64,512                a size of your own, may be repeated: T,B,H
    python benchmarks/recurrent_gpu.py --device cpu --size 20,4,16       the same code without a GPU, to try it

Each precision of ``torch.set_float32_matmul_precision`` gets its table. The column "path" says which engine made the steps: one
kernel for all of them, or products and kernels in CUDA graphs, step by step. Contestants take turns; medians.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from gyrostat import LEM, LipschitzRNN, NoisyRNN
from recurrent import EagerLEM, EagerLipschitz, Last

SIZES = [(784, 16, 128), (784, 128, 128), (784, 2048, 128), (784, 128, 256), (784, 128, 512)]


def contestants(H: int, device: str) -> dict[str, nn.Module]:
    found = {
        "lipschitz": Last(LipschitzRNN(1, H), sequence=False),
        "midpoint": Last(LipschitzRNN(1, H, solver="midpoint"), sequence=False),
        "noisy": Last(NoisyRNN(1, H), sequence=False),
        "lem": Last(LEM(1, H), sequence=False),
        "lipschitz eager": EagerLipschitz(H),
        "lem eager": EagerLEM(H),
        "GRU": Last(nn.GRU(1, H)),
        "LSTM": Last(nn.LSTM(1, H)),
    }
    return {k: v.to(device) for k, v in found.items()}


def path_of(model: nn.Module) -> str:
    words = getattr(getattr(model, "layer", None), "backend_in_use", "-").split(": ")
    return " ".join(words[:2])[:60]


def milliseconds(run, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def error_of(kind: type[nn.Module], H: int, device: str) -> float:
    """Of the last state and the gradients against the reference in float64, relative, the largest of them."""
    single, double = kind(1, H).to(device), kind(1, H, dtype=torch.float64, backend="reference")
    double.load_state_dict({k: v.double().cpu() for k, v in single.state_dict().items()})
    x = torch.randn(100, 20, 1)
    found = []
    for layer, given in ((single, x.to(device)), (double, x.double())):
        output, _ = layer(given)
        output.square().mean().backward()
        found.append([output, *(p.grad for p in layer.parameters())])
    pairs = [(a.detach().cpu().double(), b.detach()) for a, b in zip(*found, strict=True)]
    return max(((a - b).norm() / b.norm()).item() for a, b in pairs if b.norm() > 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", type=lambda s: tuple(int(v) for v in s.split(",")), help="T,B,H")
    parser.add_argument("--precision", action="append", choices=["highest", "high", "medium"])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--rounds", type=int, default=5)
    o = parser.parse_args()
    if o.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU is to be seen; --device cpu tries the code without one")
    where = torch.cuda.get_device_name() if o.device == "cuda" else "CPU"
    for precision in o.precision or ["highest", "high", "medium"]:
        torch.set_float32_matmul_precision(precision)
        print(f"\ntorch {torch.__version__}, {where}, precision {precision!r}: microseconds per step\n")
        print("| (T, B, H) | layer | path | forward | forward and backward | error |\n" + "|---" * 6 + "|")
        for T, B, H in o.size or SIZES:
            torch.manual_seed(0)
            x, models = torch.randn(T, B, 1, device=o.device), contestants(H, o.device)
            with torch.device(o.device):  # the plain loops make their states where they are told
                times: dict[tuple[str, str], list[float]] = {}
                for _ in range(o.rounds + 3):  # three to compile, to record and to settle
                    for name, model in models.items():

                        def infer(model=model, x=x):
                            with torch.no_grad():
                                model(x)

                        def train(model=model, x=x):
                            for p in model.parameters():
                                p.grad = None
                            model(x).square().sum().backward()

                        for what, run in (("infer", infer), ("train", train)):
                            times.setdefault((name, what), []).append(milliseconds(run, o.device))
            for name, model in models.items():
                infer, train = (1e3 * statistics.median(times[name, w][3:]) / T for w in ("infer", "train"))
                kind = {"lipschitz": LipschitzRNN, "lem": LEM}.get(name)
                error = f"{error_of(kind, H, o.device):.1e}" if kind else ""
                print(
                    f"| ({T}, {B}, {H}) | {name} | {path_of(model)} | {infer:.2f} | {train:.2f} | {error} |", flush=True
                )


if __name__ == "__main__":
    main()
