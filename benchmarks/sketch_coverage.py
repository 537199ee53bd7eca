"""How often the 95 % bounds of a sketched SVD hold, over many matrices and sketches; whether extrapolated sizes do; and
bounds in few directions beside those in all; how often bounds of refined sketches hold, and how wide they are.

    python benchmarks/sketch_coverage.py                      every case and method, 600 matrices each
    python benchmarks/sketch_coverage.py --cases polynomial --methods gaussian --trials 2000

Each trial draws a matrix and a sketch; the bound counts as kept where the largest error of the first k components is at
most the simultaneous bound. The standard error of a coverage of .95 over 600 trials is .009.
"""

from __future__ import annotations

import argparse
import json
import warnings

import numpy as np

from gyrostat import SketchWarning, bootstrap_error, sketched_svd, svd
from gyrostat.sketch.passes import Watch
from gyrostat.sketch.refine import Span
from gyrostat.sketch.rows import as_rows
from gyrostat.sketch.sketches import METHODS, sketch

METRICS = ("values", "left", "right")


def with_spectrum(random, n, s):
    U = np.linalg.qr(random.standard_normal((n, len(s))))[0]
    V = np.linalg.qr(random.standard_normal((len(s), len(s))))[0]
    return U * s @ V.T, U, s, V


def coherent(random, n, s):
    # rows of a t distribution with one degree of freedom: a few of them carry the matrix
    A = random.standard_t(1, (n, 20))
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    return A, U, s, Vt.T


# name: (matrix, spectrum, components, sketch size, methods)
RANKS = np.arange(1, 21)
SOME = ("gaussian", "uniform", "length", "countsketch")
CASES = {
    "polynomial": (with_spectrum, 1.0 / RANKS, 3, 400, METHODS),
    "exponential": (with_spectrum, 0.6 ** (RANKS - 1.0), 4, 400, METHODS),
    "small sketch": (with_spectrum, 1.0 / RANKS, 3, 150, SOME),
    "slow decay": (with_spectrum, RANKS**-0.25, 3, 400, SOME),
    "100 columns": (with_spectrum, np.arange(1, 101) ** -0.5, 5, 400, SOME),
    "ties": (with_spectrum, np.concatenate([[1, 0.98, 0.5, 0.49], 0.1 / RANKS[:16]]), 4, 400, SOME),
    "coherent rows": (coherent, None, 3, 400, SOME),
}


def sine(a, b):
    return np.sqrt(np.maximum(0.0, 1 - np.sum(a * b, axis=0) ** 2))


def coverage(case, method, trials, rows):
    make, s, k, t, _ = CASES[case]
    kept, pair = np.zeros(3), 0
    for trial in range(trials):
        A, U, s, V = make(np.random.default_rng(trial), rows, s)
        r = sketched_svd(A, k, t, method, seed=trial)
        b = bootstrap_error(r, seed=trial, subspace=(2,), quiet=True)
        worst = [np.abs(r.s - s[:k]).max(), sine(r.U, U[:, :k]).max(), sine(r.Vt.T, V[:, :k]).max()]
        kept += [e <= b.simultaneous[m] for m, e in zip(METRICS, worst)]
        angle = np.sqrt(max(0.0, 1 - np.linalg.svd(r.Vt[:2] @ V[:, :2], compute_uv=False)[-1] ** 2))
        pair += angle <= b.subspace[2]
    return *(kept / trials), pair / trials


def extrapolation(trials, rows):
    """Bounds at t0 = 150 carried to 600 and 2,400, and tolerances reached in two stages."""
    make, s, k, _, _ = CASES["polynomial"]
    kept = {600: np.zeros(3), 2400: np.zeros(3)}
    for trial in range(trials):
        A, U, s, V = make(np.random.default_rng(trial), rows, s)
        small = bootstrap_error(sketched_svd(A, k, 150, "uniform", seed=trial), seed=trial, quiet=True)
        for t, count in kept.items():
            r = sketched_svd(A, k, t, "uniform", seed=trial + 1_000_000)
            worst = [np.abs(r.s - s[:k]).max(), sine(r.U, U[:, :k]).max(), sine(r.Vt.T, V[:, :k]).max()]
            bounds = small.extrapolate(t).simultaneous
            count += [e <= bounds[m] for m, e in zip(METRICS, worst)]
    return {t: count / trials for t, count in kept.items()}


def tolerance(trials, tol, method, rows):
    s, reached, held, exact = 1.0 / np.arange(1, 41), 0, 0, 0
    sizes = []
    for trial in range(trials):
        A, _, _, V = with_spectrum(np.random.default_rng(trial), rows, s)
        r = svd(A, 2, tol, sketch_method=method, left=False, seed=trial)
        error = sine(r.Vt.T, V[:, :2]).max()
        reached += error <= tol
        exact += r.exact
        held += r.exact or error <= r.bounds.simultaneous["right"]
        sizes.append(0 if r.sketch is None else r.sketch.size)
    return reached / trials, held / trials, exact / trials, int(np.median(sizes))


def directions(sketches=6):
    """Bounds beside those of a bootstrap in all directions with the same draws: mean and standard deviation of the ratio."""
    for power in (1.0, 0.5):
        A = np.random.default_rng(0).standard_normal((20_000, 300)) * np.arange(1.0, 301) ** -power
        for k in (5, 20):
            ratios = {m: [] for m in METRICS}
            for seed in range(sketches):
                r = sketched_svd(A, k, 500, "countsketch", left=False, seed=seed)
                some, whole = (bootstrap_error(r, projection=p, seed=seed, quiet=True) for p in ("auto", None))
                for m in METRICS:
                    ratios[m].append(some.per_component[m] / whole.per_component[m])
            yield f"j^-{power:g}, first {k}", [(float(np.mean(v)), float(np.std(v))) for v in ratios.values()]


LONG = np.arange(1, 101)
REFINED = {
    "j^-1": (with_spectrum, 1.0 / LONG, 5, ("countsketch", "gaussian")),
    "j^-1/4": (with_spectrum, LONG**-0.25, 5, ("countsketch",)),
    "0.7^j": (with_spectrum, 0.7**LONG, 5, ("countsketch",)),
    "ties": (with_spectrum, np.concatenate([[1, 0.98, 0.5, 0.49], 0.1 / LONG[:56]]), 4, ("countsketch",)),
    "coherent rows": (coherent, None, 5, ("countsketch", "length", "uniform")),
}


def refined(case, method, size, trials, rows, passes=3):
    """Bounds after each pass over 8 columns: how often kept, and the median of bound / error of the right vectors."""
    make, s, k, _ = REFINED[case]
    kept, width = np.zeros((passes, 3)), [[] for _ in range(passes)]
    for trial in range(trials):
        A, U, s, V = make(np.random.default_rng(trial), rows, s)
        source = as_rows(A)[0]
        span = Span(sketch(A, size, method=method, seed=trial), k, 8)
        for p in range(passes):
            span.read(source, Watch(), 8)
            errors, found = span.errors(), (span.left_vectors(source, Watch()), span.V[:, :k])
            left, right = (
                np.linalg.norm(x - y * np.sum(x * y, axis=0), axis=0) for x, y in zip(found, (U[:, :k], V[:, :k]))
            )
            bounds = (errors.values, errors.left, errors.right)
            kept[p] += [np.all(e <= b) for e, b in zip((np.abs(span.s[:k] - s[:k]), left, right), bounds)]
            width[p].append(errors.right.max() / right.max())
    return [(*(kept[p] / trials), float(np.median(width[p]))) for p in range(passes)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=[*CASES, "extrapolation", "tolerance", "directions", "refined"])
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--trials", type=int, default=600)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--json", help="also write the numbers to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore", SketchWarning)
    found = {}
    print(f"{options.trials} matrices of {options.rows} rows each; nominal coverage .95")
    for case in options.cases:
        if case == "extrapolation":
            for t, (values, left, right) in extrapolation(options.trials, options.rows).items():
                found[f"{case} {t}"] = [values, left, right]
                print(
                    f"bounds at 150 carried to {t:<5} values {values:.3f}  left {left:.3f}  right {right:.3f}",
                    flush=True,
                )
        elif case == "directions":
            for name, row in directions():
                found[f"{case} {name}"] = row
                words = "  ".join(f"{m} {mean:.3f} +- {spread:.3f}" for m, (mean, spread) in zip(METRICS, row))
                print(f"in few directions, {name:18s} {words}", flush=True)
        elif case == "refined":
            for spectrum, (_, _, _, methods) in REFINED.items():
                for method in options.methods or methods:
                    for size in (104, 400):
                        row = refined(spectrum, method, size, options.trials, options.rows)
                        found[f"{case} {spectrum} {method} {size}"] = row
                        words = "   ".join(f"{v:.3f} {left:.3f} {r:.3f} ({w:.1f})" for v, left, r, w in row)
                        print(f"refined {spectrum:14s} {method:12s} {size}   {words}", flush=True)
        elif case == "tolerance":
            for tol, method in [(0.2, "countsketch"), (0.15, "countsketch"), (0.2, "uniform")]:
                row = tolerance(options.trials, tol, method, options.rows)
                found[f"{case} {tol} {method}"] = row
                print(
                    f"tolerance {tol:<5} {method:12s} reached {row[0]:.3f}  bound kept {row[1]:.3f}  "
                    f"exact {row[2]:.3f}  median size {row[3]}",
                    flush=True,
                )
        else:
            for method in options.methods or CASES[case][4]:
                row = coverage(case, method, options.trials, options.rows)
                found[f"{case} {method}"] = row
                print(
                    f"{case:14s} {method:12s} values {row[0]:.3f}  left {row[1]:.3f}  right {row[2]:.3f}  "
                    f"first two as a space {row[3]:.3f}",
                    flush=True,
                )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as stream:
            json.dump({k: np.asarray(v).tolist() for k, v in found.items()}, stream, indent=1)


if __name__ == "__main__":
    main()
