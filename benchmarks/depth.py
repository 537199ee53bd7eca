"""Blocks of continuous depth against what they replace: one run, one machine, ratios of interleaved medians.

    python benchmarks/depth.py [--compiled] [--peers FOLDER]

``--peers`` names a folder with torchdiffeq and torchdyn (pip install --target FOLDER --no-deps torchdiffeq torchdyn).
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time

import torch
from torch import nn

from gyrostat.depth.block import ContinuousBlock
from gyrostat.depth.convnet import ContinuousNet, ConvUnit
from gyrostat.numerics.basis import Hat, PiecewiseConstant


class Plain(nn.Module):
    """The residual network that the block equals."""

    def __init__(self, units):
        super().__init__()
        self.units = nn.ModuleList(units)

    def forward(self, x):
        for unit in self.units:
            x = x + unit(x)
        return x


def plain_twin(net):
    """The same image network with its blocks replaced by lists of residual units."""
    twin = copy.deepcopy(net)
    for i, block in enumerate(net.blocks):
        twin.blocks[i] = Plain(block.to_units())
    return twin


def train_step(model, x):
    """Forward and backward; :func:`compare` makes it a step of training."""
    model.zero_grad(set_to_none=True)
    model(x).square().mean().backward()


class Trainer:
    """A whole training step, optimiser included: a step whose gradients are thrown away measures the allocator instead."""

    def __init__(self, model):
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def __call__(self, model, x):
        self.optimizer.zero_grad()
        model(x).square().mean().backward()
        self.optimizer.step()


def infer(model, x):
    with torch.no_grad():
        model(x)


def ratio(first, second, repeats):
    """Median of paired ratios first / second, with the medians in milliseconds."""
    pairs = []
    for i in range(repeats + 1):
        times = []
        for act in (first, second) if i % 2 else (second, first):
            started = time.perf_counter()
            act()
            times.append(time.perf_counter() - started)
        pairs.append(times if i % 2 else times[::-1])
    pairs = pairs[1:]
    medians = [1e3 * statistics.median(t) for t in zip(*pairs)]
    return statistics.median(a / b for a, b in pairs), *medians


def compare(name, step, first, second, x, repeats):
    one, other = (Trainer(first), Trainer(second)) if step is train_step else (step, step)
    for act, model in ((one, first), (other, second)):
        act(model, x)
    found = ratio(lambda: one(first, x), lambda: other(second, x), repeats)
    print(f"| {name} | {found[0]:.3f} | {found[1]:.1f} | {found[2]:.1f} |", flush=True)


def against_resnet(args):
    print("\n| small ContinuousNet / the ResNet it equals | ratio | ms | ms |\n|---|---|---|---|")
    torch.manual_seed(0)
    net = ContinuousNet(3, 10, channels=16, basis=PiecewiseConstant(args.units), solver="euler", scale=args.units)
    twin = plain_twin(net)
    x = torch.randn(args.batch, 3, 32, 32)
    with torch.no_grad():
        gap = float((net.eval()(x) - twin.eval()(x)).abs().max())
    for mode, step in (("training step", train_step), ("inference", infer)):
        a, b = net.train(step is train_step), twin.train(step is train_step)
        compare(f"{mode}, eager", step, a, b, x, args.repeats)
        if args.compiled:
            c, d = torch.compile(copy.deepcopy(a)), torch.compile(copy.deepcopy(b))
            compare(f"{mode}, compiled", step, c, d, x, args.repeats)
    print(f"largest difference of the logits: {gap:.1e}")


class Torchdiffeq(nn.Module):
    def __init__(self, rate, method):
        super().__init__()
        from torchdiffeq import odeint

        self.rate, self.method, self.odeint = rate, method, odeint

    def forward(self, x):
        ends = torch.tensor([0.0, 1.0])
        return self.odeint(lambda _, z: self.rate(z), x, ends, method=self.method, options={"step_size": 1 / 8})[-1]


class Torchdyn(Torchdiffeq):
    def __init__(self, rate, method):
        nn.Module.__init__(self)
        from torchdyn.numerics import odeint

        self.rate, self.method, self.odeint, self.t = rate, method, odeint, torch.linspace(0, 1, 9)

    def forward(self, x):
        return self.odeint(lambda _, z: self.rate(z), x, self.t, solver=self.method)[1][-1]


def against_peers(args):
    sys.path.insert(0, args.peers)
    print(
        "\n| block / fixed-step solver of a peer: one rate, 8 steps, training step | ratio | ms | ms |\n|---|---|---|---|"
    )
    for name, shape, unit in (
        ("MLP 64, batch 32", (32, 64), nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))),
        ("conv 16x32x32, batch 8", (8, 16, 32, 32), ConvUnit(16).eval()),
    ):
        x = torch.randn(*shape)
        for make, theirs, ours in (
            (Torchdiffeq, "euler", "euler"),
            (Torchdiffeq, "midpoint", "midpoint"),
            (Torchdiffeq, "rk4", "rk4_38"),
            (Torchdyn, "rk4", "rk4"),
        ):
            block = ContinuousBlock(unit, PiecewiseConstant(1), ours, 8).eval()
            try:
                peer = make(copy.deepcopy(unit), theirs)
            except ImportError as error:
                print(f"{make.__name__}: not measured ({error})")
                continue
            gap = float((block(x) - peer(x)).abs().max().detach())
            compare(f"{name}, {ours}, {make.__name__} (difference {gap:.0e})", train_step, block, peer, x, args.repeats)


def peak_memory(mode, n_steps):
    """Megabytes that one training step adds to the resident memory of a fresh process."""
    code = f"from benchmarks.depth import memory_worker; memory_worker({mode!r}, {n_steps})"
    # freed tensors go back to the system at once: the peak is what is alive, not what the heap keeps for later
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "500000"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    return float(out)


def memory_worker(mode, n_steps):
    torch.set_num_threads(1)
    unit = nn.Sequential(nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 256))
    block = ContinuousBlock(unit, Hat(2), "euler", n_steps, checkpoint=mode)
    x = torch.randn(2048, 256)
    small = ContinuousBlock(unit, Hat(2), "euler", 1)
    train_step(small, x)
    before = peak()
    train_step(block, x)
    print((peak() - before) / 1024)


def peak():
    """KiB; getrusage would count what the parent had before this process was started."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def memory():
    steps = (16, 64, 256)
    print("\n| peak memory of a training step, MB | " + " | ".join(f"{n} steps" for n in steps) + " |")
    print("|---|" + "---|" * len(steps))
    for mode in ("none", "stage", "step", "sqrt"):
        found = [peak_memory(mode, n) for n in steps]
        print(f"| checkpoint={mode!r} | " + " | ".join(f"{v:.0f}" for v in found) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--peers", default="")
    parser.add_argument("--no-memory", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps({"torch": torch.__version__, "threads": 1, **vars(args)}))
    against_resnet(args)
    if args.peers:
        against_peers(args)
    if not args.no_memory:
        memory()


if __name__ == "__main__":
    main()
