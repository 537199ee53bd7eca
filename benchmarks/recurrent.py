"""Recurrent layers, forward and backward: fused kernels beside the plain loop, torch's own layers and ncps.

    python benchmarks/recurrent.py                       all sizes, denormals flushed and kept, curves: some minutes
    python benchmarks/recurrent.py --quick               one size, less than 100 seconds
    python benchmarks/recurrent.py --size 784,128,128    a size of your own, may be repeated: T,B,H
    python benchmarks/recurrent.py --curves              time against T, B and H, and the picture
    python benchmarks/recurrent.py --table               print the tables of the results there are

Contestants take turns within each round, so that a slow minute is slow for all. A sample during which other processes used
more than a tenth of the machine is not clean; the medians are of the clean samples, and where there are none the line says
"busy". Input of one feature, the loss reads the last state. Results are added to --out (JSON), size by size.
Peers are taken when they are importable: ncps (CfC), torchdiffeq (midpoint, one call for a step).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

from gyrostat import LEM, LipschitzRNN, NoisyRNN
from gyrostat.recurrent.kernels import describe

SIZES = [(784, 128, 128), (784, 32, 256), (2000, 64, 128), (784, 8, 64)]
GOALS = {  # from the plan: ratios at the sizes above, training and inference
    ("lipschitz eager", "lipschitz"): [(3.5, 3.3), (3.2, 2.8), (5.0, 4.5), (35.0, 30.0)],
    ("lem eager", "lem"): [(5.5, 4.0), (4.2, 3.4), (7.0, 5.0), (None, None)],
    ("LSTM same H", "lipschitz"): [(5.5, None), (4.0, None), (7.5, None), (None, None)],
    ("LSTM same H", "lem"): [(2.7, None), (2.2, None), (3.3, None), (None, None)],
    ("midpoint torchdiffeq", "midpoint"): [(4.5, 5.0)] * 3 + [(None, None)],
    ("CfC same H", "lipschitz"): [(7.0, None)] * 3 + [(None, None)],
}


class EagerLipschitz(nn.Module):
    """The loop as it is usually written: nothing is taken out of it."""

    def __init__(self, H: int, scheme: str = "euler") -> None:
        super().__init__()
        self.inner, self.H, self.scheme = nn.Linear(1, H), H, scheme
        self.m_a, self.m_w = (nn.Parameter(torch.randn(H, H) * 0.1 / H) for _ in range(2))

    def matrices(self):
        eye = torch.eye(self.H)
        return (0.25 * (M + M.T) + 0.75 * (M - M.T) - 1e-3 * eye for M in (self.m_a, self.m_w))

    def forward(self, x):
        A, W = self.matrices()
        h = torch.zeros(x.shape[1], self.H)
        for x_t in x:
            z = self.inner(x_t)

            def drift(t, h, z=z):
                return h @ A + torch.tanh(h @ W + z)

            if self.scheme == "torchdiffeq":
                from torchdiffeq import odeint

                h = odeint(drift, h, torch.tensor([0.0, 0.03]), method="midpoint")[-1]
            elif self.scheme == "midpoint":
                h = h + 0.03 * drift(0, h + 0.015 * drift(0, h))
            else:
                h = h + 0.03 * drift(0, h)
        return h


class EagerLEM(nn.Module):
    def __init__(self, H: int) -> None:
        super().__init__()
        self.inp2hid, self.hid2hid, self.transform_z = nn.Linear(1, 4 * H), nn.Linear(H, 3 * H), nn.Linear(H, H)
        self.H = H

    def forward(self, x):
        y = z = torch.zeros(x.shape[1], self.H)
        for x_t in x:
            i2, i1, iy, iz = self.inp2hid(x_t).chunk(4, 1)
            h2, h1, hz = self.hid2hid(y).chunk(3, 1)
            ms1, ms2 = torch.sigmoid(i1 + h1), torch.sigmoid(i2 + h2)
            z = (1 - ms1) * z + ms1 * torch.tanh(iz + hz)
            y = (1 - ms2) * y + ms2 * torch.tanh(self.transform_z(z) + iy)
        return y


class Last(nn.Module):
    """A layer reduced to its last state; ours do not build the sequence."""

    def __init__(self, layer: nn.Module, **options) -> None:
        super().__init__()
        self.layer, self.options = layer, options

    def forward(self, x):
        _, state = self.layer(x, **self.options)
        return state[0] if isinstance(state, tuple) else state


def contestants(H: int) -> dict[str, nn.Module]:
    fused = {"backend": "fused"}
    found: dict[str, nn.Module] = {
        "lipschitz": Last(LipschitzRNN(1, H, **fused), sequence=False),
        "lipschitz with output": Last(LipschitzRNN(1, H, **fused)),
        "lipschitz memory=low": Last(LipschitzRNN(1, H, memory="low", **fused), sequence=False),
        "noisy": Last(NoisyRNN(1, H, **fused), sequence=False),
        "midpoint": Last(LipschitzRNN(1, H, solver="midpoint", **fused), sequence=False),
        "lem": Last(LEM(1, H, **fused), sequence=False),
        "lem memory=low": Last(LEM(1, H, memory="low", **fused), sequence=False),
        "lipschitz eager": EagerLipschitz(H),
        "midpoint eager": EagerLipschitz(H, "midpoint"),
        "lem eager": EagerLEM(H),
    }
    # Lipschitz has 2 H^2 numbers; gates multiply those of a plain recurrence by 1, 3 and 4
    for kind, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
        found[f"{kind} same H"] = Last(getattr(nn, kind)(1, H))
        found[f"{kind} same parameters"] = Last(getattr(nn, kind)(1, max(1, round(H * math.sqrt(2 / gates)))))
    try:
        import torchdiffeq  # noqa: F401

        found["midpoint torchdiffeq"] = EagerLipschitz(H, "torchdiffeq")
    except ImportError:
        pass
    try:
        from ncps.torch import CfC

        found["CfC same H"] = Last(CfC(1, H, batch_first=False))
    except ImportError:
        pass
    return found


def ticks() -> tuple[float, float]:
    """Busy seconds of the machine and of this process."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, soft, steal = map(int, file.readline().split()[1:9])
    busy = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    return busy, own.ru_utime + own.ru_stime


def sample(run, least: float = 0.2) -> tuple[float, bool]:
    """Seconds of one call, from at least ``least`` seconds of calls, and whether the machine was ours meanwhile."""
    known = os.path.exists("/proc/stat")
    before = ticks() if known else (0.0, 0.0)
    start, calls = time.perf_counter(), 0
    while True:
        run()
        calls += 1
        spent = time.perf_counter() - start
        if spent >= least:
            break
    after = ticks() if known else (0.0, 0.0)
    others = (after[0] - before[0]) - (after[1] - before[1])
    return spent / calls, others < 0.1 * spent * (os.cpu_count() or 1)


def passes(model: nn.Module, x: torch.Tensor):
    model.train()

    def train():
        for p in model.parameters():
            p.grad = None
        model(x).square().sum().backward()

    def infer():
        # noise is part of what is timed, so training mode stays on
        with torch.no_grad():
            model(x)

    return train, infer


def flops(name: str, T: int, B: int, H: int) -> float | None:
    """Of the products of one forward pass."""
    per = {"lipschitz": 4, "lipschitz with output": 4, "lem": 8, "midpoint": 8, "noisy": 4}.get(name)
    return per * T * B * H * H if per else None


def interleave(tasks: dict, rounds: int, budget: float) -> dict:
    """Medians of clean samples, seconds. Contestants take turns until each has its clean samples or the budget is spent."""
    samples: dict = {name: [] for name in tasks}
    for run in tasks.values():
        run()
    start = time.perf_counter()
    while True:
        wanting = [n for n, found in samples.items() if sum(ours for _, ours in found) < rounds]
        if not wanting or (min(map(len, samples.values())) and time.perf_counter() - start > budget):
            break
        for name in wanting:
            samples[name].append(sample(tasks[name]))
    found = {}
    for name, values in samples.items():
        clean = [v for v, ours in values if ours]
        seconds = statistics.median(clean or [v for v, _ in values])
        found[name] = {"seconds": seconds, "samples": len(values), "clean": len(clean)}
    return found


def measure(T: int, B: int, H: int, flush: bool, rounds: int, budget: float, only: list[str] | None) -> dict:
    torch.manual_seed(0)
    torch.set_flush_denormal(flush)
    x = torch.randn(T, B, 1)
    square = torch.randn(2048, 2048)
    tasks = {("sgemm 2048", "infer"): lambda: square @ square}
    for name, model in contestants(H).items():
        if only is None or name in only:
            train, infer = passes(model, x)
            tasks |= {(name, "train"): train, (name, "infer"): infer}
    found = interleave(tasks, rounds, budget)
    torch.set_flush_denormal(False)
    result: dict = {}
    for (name, what), values in found.items():
        result.setdefault(name, {})[what] = values
    gemm = 2 * 2048**3 / result["sgemm 2048"]["infer"]["seconds"]
    for name, values in result.items():
        work = flops(name, T, B, H)
        for what, times in (("train", 3), ("infer", 1)) if work else ():
            rate = times * work / values[what]["seconds"]
            values[what] |= {"gflops": rate / 1e9, "of_sgemm": rate / gemm}
    return result


def memory(T: int, B: int, H: int) -> dict[str, float]:
    """Megabytes that a training pass adds to a fresh process; the pool keeps nothing."""
    names = [
        "lipschitz",
        "lipschitz memory=low",
        "lem",
        "lem memory=low",
        "lipschitz eager",
        "lem eager",
        "LSTM same H",
    ]
    return {n: float(subprocess.run(
        [sys.executable, __file__, "--memory-of", n, "--size", f"{T},{B},{H}"], check=True, capture_output=True, text=True,
        env={**os.environ, "GYROSTAT_POOL_MB": "0"}).stdout) for n in names}  # fmt: skip


def memory_of(name: str, T: int, B: int, H: int) -> float:
    model = contestants(H)[name]
    train, _ = passes(model, torch.randn(2, B, 1))
    train()
    train, _ = passes(model, torch.randn(T, B, 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def curves(budget: float) -> dict:
    base = {"T": 300, "B": 32, "H": 64}
    ranges = {"T": [50, 150, 500, 1500], "B": [1, 8, 64, 256], "H": [16, 64, 128, 256]}
    found: dict = {"base": base}
    torch.set_flush_denormal(True)
    for axis, values in ranges.items():
        for value in values:
            at = {**base, axis: value}
            x, models = torch.randn(at["T"], at["B"], 1), contestants(at["H"])
            names = ["lipschitz", "lem", "lipschitz eager", "lem eager", "LSTM same H"]
            times = interleave({n: passes(models[n], x)[0] for n in names}, 1, budget)
            found.setdefault(axis, []).append({"at": value, **{n: v["seconds"] for n, v in times.items()}})
    return found


def picture(found: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    words = {"T": "steps T", "B": "sequences B", "H": "units H"}
    fig, axes = plt.subplots(1, 3, figsize=(12, 3.8), sharey=True, layout="constrained")
    for ax, axis in zip(axes, "TBH"):
        rows = found[axis]
        for name in (n for n in rows[0] if n != "at"):
            style = (
                {"marker": "o", "lw": 2} if "eager" not in name and "LSTM" not in name else {"marker": ".", "ls": "--"}
            )
            color = {"li": "C0", "le": "C3", "LS": "0.45"}[name[:2]]
            ax.loglog(
                [r["at"] for r in rows],
                [1e3 * r[name] for r in rows],
                label=name.replace(" same H", ""),
                color=color,
                **style,
            )
        at = [r["at"] for r in rows]
        ax.set_xticks(at, [str(v) for v in at])
        ax.set_xticks([], minor=True)
        ax.set_xlabel(words[axis])
        ax.set_title(", ".join(f"{k} = {v}" for k, v in found["base"].items() if k != axis), fontsize=10)
        ax.grid(alpha=0.3, which="both", lw=0.5)
    axes[0].set_ylabel("forward and backward, ms")
    axes[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)


def print_tables(data: dict) -> None:
    for key, entry in data["sizes"].items():
        for mode in ("flushed", "kept"):
            if mode not in entry:
                continue
            result = entry[mode]
            print(
                f"\n(T, B, H) = ({key}), denormals {mode}: milliseconds, how often Lipschitz and LEM are faster (training)\n"
            )
            print("| | training | inference | ÷ lipschitz | ÷ lem | of sgemm |\n|---|---|---|---|---|---|")
            for name, values in result.items():
                if name == "sgemm 2048":
                    continue
                cells = []
                for what in ("train", "infer"):
                    v = values[what]
                    cells.append(f"{1e3 * v['seconds']:.3g}" + ("" if v["clean"] else " (busy)"))
                for ours in ("lipschitz", "lem"):
                    ratio = (
                        values["train"]["seconds"] / result[ours]["train"]["seconds"] if ours in result else math.nan
                    )
                    cells.append(f"{ratio:.2f}")
                share = values["train"].get("of_sgemm")
                cells.append(
                    "" if share is None else f"{100 * share:.0f} % / {100 * values['infer']['of_sgemm']:.0f} %"
                )
                print(f"| {name} | " + " | ".join(cells) + " |")
            goals(key, result) if mode == "flushed" else None
        if "memory" in entry:
            print("\nmegabytes of a training pass: " + ", ".join(f"{n} {v:.1f}" for n, v in entry["memory"].items()))


def goals(key: str, result: dict) -> None:
    size = tuple(int(v) for v in key.split(","))
    if size not in SIZES:
        return
    print("\n| ratio | training: goal, measured | inference: goal, measured |\n|---|---|---|")
    for (peer, ours), values in GOALS.items():
        if peer not in result or ours not in result:
            continue
        cells = []
        for what, goal in zip(("train", "infer"), values[SIZES.index(size)]):
            pair = result[peer][what], result[ours][what]
            ratio = pair[0]["seconds"] / pair[1]["seconds"]
            remark = " **missed**" if goal and ratio < goal else ""
            remark += "" if all(v["clean"] for v in pair) else " (busy)"
            cells.append(f"{goal or '-'}, {ratio:.2f}{remark}")
        print(f"| {peer} / {ours} | " + " | ".join(cells) + " |")
    for word, what, pairs in (
        ("noisy / noise-free (at most 1.35)", "infer", [("noisy", "lipschitz")]),
        ("memory=low / full (at most 1.3)", "train", [(f"{n} memory=low", n) for n in ("lipschitz", "lem")]),
    ):
        told = [
            f"{b} {result[a][what]['seconds'] / result[b][what]['seconds']:.2f}"
            for a, b in pairs
            if a in result and b in result
        ]
        if told:
            print(f"| {word} | " + (f"{', '.join(told)} | |" if what == "train" else f"| {', '.join(told)} |"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", type=lambda s: tuple(int(v) for v in s.split(",")), help="T,B,H")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--curves", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--memory", action="store_true", help="memory of a training pass at each size, nothing else")
    parser.add_argument("--denormals", choices=["flushed", "kept", "both"], default="both")
    parser.add_argument("--only", action="append", help="name of a contestant, may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=90.0, help="seconds for a size and a denormal mode")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/recurrent.json"))
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    o = parser.parse_args()
    sizes = o.size or (SIZES[:1] if o.quick else SIZES)
    if o.memory_of:
        print(memory_of(o.memory_of, *sizes[0]))
        return
    data = json.loads(o.out.read_text()) if o.out.exists() else {"sizes": {}}
    data |= {"torch": torch.__version__, "threads": torch.get_num_threads(), "kernels": describe()["library"]}
    if not o.table and not o.curves:
        modes = {"both": ["flushed", "kept"]}.get(o.denormals, [o.denormals])
        modes = [] if o.memory else ["flushed"] if o.quick else modes
        for T, B, H in sizes:
            entry = data["sizes"].setdefault(f"{T},{B},{H}", {})
            for mode in modes:
                entry[mode] = measure(T, B, H, mode == "flushed", o.rounds, o.budget, o.only)
            if o.memory or not (o.quick or o.size):
                entry["memory"] = memory(T, B, H)
    if o.curves or not (o.quick or o.size or o.table or o.memory):
        data["curves"] = curves(4.0)
    o.out.parent.mkdir(parents=True, exist_ok=True)
    o.out.write_text(json.dumps(data, indent=1) + "\n")
    if "curves" in data:
        picture(data["curves"], o.out.with_suffix(".png"))
    print(f"torch {data['torch']}, {data['threads']} threads, {data['kernels']}")
    print_tables(data)


if __name__ == "__main__":
    main()
