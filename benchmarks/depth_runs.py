"""Real runs of the networks of continuous depth: direct against refined, changed graphs, compression.

    GYROSTAT_DATA=... python benchmarks/depth_runs.py fashion --limit 0 --epochs 4 --channels 4 --out runs/fashion
    GYROSTAT_DATA=... python benchmarks/depth_runs.py tagger --limit 0 --epochs 8 --out runs/tagger

Runs are resumable, and ``--only`` trains some of them; tables are printed as markdown and kept as JSON beside the runs.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import torch

from gyrostat.cli._depth import latencies, measure
from gyrostat.depth.change import project, set_solver
from gyrostat.depth.manifest import manifestation_report
from gyrostat.depth.stages import GridAlignmentWarning
from gyrostat.numerics.families import parse_basis
from gyrostat.train.config import TrainConfig
from gyrostat.train.levels import Levels, NetConfig, as_examples, open_depth_data, train_levels


def table(title, columns, rows):
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for row in rows:
        print("| " + " | ".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row) + " |", flush=True)


def test_tensors(data, limit):
    examples, rows = as_examples(data), data.split["test"][:limit]
    return torch.from_numpy(examples.x[rows]), torch.from_numpy(examples.y[rows])


def _cpu_seconds(args, name, started):
    """Seconds of processor time, kept beside the run: a finished one is not trained again."""
    path = args.out / name.replace(" ", "-") / "cpu-seconds.txt"
    if not path.exists():
        path.write_text(f"{time.process_time() - started:.1f}")
    return float(path.read_text())


def train_all(data, runs, args):
    models, rows = {}, []
    for name, (net, config) in runs.items():
        if args.only and name not in args.only.split(","):
            continue
        started = time.process_time()
        run = train_levels(data, net, config, args.out / name.replace(" ", "-"), source=data.name, device="cpu")
        models[name] = run.model
        rows.append([name, run.result["parameters"], run.result["test_score"], _cpu_seconds(args, name, started)])
        print(rows[-1], flush=True)
    table("Training", ["run", "parameters", "test accuracy", "CPU seconds"], rows)
    return models, rows


def compressed(model, bases, solvers, x, y):
    rows = []
    for word, solver in ((b, s) for s in solvers for b in bases):
        small = project(model, parse_basis(word))
        if solver:
            name, _, steps = solver.partition(":")
            set_solver(small, name, int(steps))
        accuracy = measure(small, x, y)["accuracy"]
        base, mine = latencies([model, small], x)
        rows.append([word, solver or "as trained", sum(p.numel() for p in small.parameters()), accuracy, mine / base])
    return rows


COMPRESSED = ["basis", "solver", "parameters", "test accuracy", "time / uncompressed"]


def fashion(args):
    data = open_depth_data(f"fashion-mnist:limit={args.limit}", 0)
    grow = tuple(1 + args.epochs * i // 4 for i in (1, 2, 3))
    decay = (1 + args.epochs * 3 // 4,)

    def net(basis, solver):
        return NetConfig(
            "image", 10, 1, basis=f"piecewise_constant:{basis}", solver=solver, channels=args.channels, segments=2,
            scale=2.0,
        )  # fmt: skip

    def config(refine_at=()):
        how = TrainConfig(
            epochs=args.epochs, lr=0.05, optimizer="sgd", momentum=0.9, weight_decay=5e-4, clip=None, decay_at=decay,
            keep="last", seed=args.seed,
        )  # fmt: skip
        return Levels(how, refine_at=refine_at)

    runs = {
        "euler direct": (net(8, "euler"), config()),
        "euler refined": (net(1, "euler"), config(grow)),
        "rk4 refined": (net(1, "rk4"), config(grow)),
        "rk4 direct": (net(8, "rk4"), config()),
    }
    models, trained = train_all(data, runs, args)
    x, y = test_tensors(data, args.test)
    found = {"trained": trained, "manifestation": {}, "compression": {}}
    for name, model in models.items():
        report = manifestation_report(
            model, list(zip(x.split(200), y.split(200))), ["euler", "midpoint", "rk4"], [4, 8, 16]
        )
        table(
            f"{name}: same weights, other graphs; verdict {report.verdict} ({report.reason})",
            ["solver", "steps", "test accuracy", "largest output error"],
            [[r.solver, r.n_steps, r.metric, r.output_error] for r in report.rows],
        )
        found["manifestation"][name] = report.to_dict()
        rows = compressed(model, [f"piecewise_constant:{k}" for k in (8, 4, 2, 1)], [None, "euler:4", "euler:2"], x, y)
        table(f"{name}: compressed without retraining", COMPRESSED, rows)
        found["compression"][name] = rows
    return found


def tagger(args):
    data = open_depth_data(f"ud-english-ewt:limit={args.limit},max_length=40", 0)
    grow = tuple(1 + args.epochs * i // 4 for i in (1, 2, 3))

    def net(basis):
        return NetConfig(
            "tags", len(data.tags), len(data.words), basis=f"piecewise_constant:{basis}", solver="euler", embed_dim=64,
            scale=1.0, dropout=0.1, max_length=data.x.shape[1],
        )  # fmt: skip

    def config(refine_at=()):
        how = TrainConfig(
            epochs=args.epochs, lr=2e-3, optimizer="adamw", weight_decay=0.1, clip=None, keep="last", batch_size=32,
            seed=args.seed,
        )  # fmt: skip
        return Levels(how, refine_at=refine_at)

    models, trained = train_all(data, {"refined to 8": (net(1), config(grow)), "direct 8": (net(8), config())}, args)
    x, y = test_tensors(data, args.test)
    found = {"trained": trained, "bases": {}, "shortened": {}}
    for name, model in models.items():
        words = [f"piecewise_constant:{k}" for k in (1, 2, 3, 4, 6, 8)]
        words += [f"hat:{k}" for k in (2, 3, 4, 6)] + [f"dg_linear:{k}" for k in (2, 4, 6)]
        rows = compressed(model, words, [None], x, y)
        table(f"{name}: other bases, Euler with 8 steps (figure 5a of the paper)", COMPRESSED, rows)
        found["bases"][name] = rows
        rows = compressed(
            model, [f"piecewise_constant:{k}" for k in (1, 2, 4, 8)], ["euler:8", "euler:4", "euler:2"], x, y
        )
        table(f"{name}: fewer steps too (figure 5b of the paper)", COMPRESSED, rows)
        found["shortened"][name] = rows
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=["fashion", "tagger"])
    parser.add_argument("--limit", type=int, default=3000, help="training examples; 0 for all")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--test", type=int, default=2000, help="test examples for changed graphs and bases")
    parser.add_argument("--only", default="", help="names of the runs to train, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/depth"))
    args = parser.parse_args()
    warnings.simplefilter("ignore", GridAlignmentWarning)
    torch.set_num_threads(1)
    found = {"fashion": fashion, "tagger": tagger}[args.run](args)
    (args.out / "tables.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
