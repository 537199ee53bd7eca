"""Which answers to noise, taken together, tell a backdoored model from a clean one.

    GYROSTAT_DATA=... python benchmarks/audit_panel.py --zoo zoo                     # the study
    ... audit_panel.py --zoo zoo --stage second --only white structured combined inside      # fresh seeds

The study pools the development seeds and the first confirmation, which has been looked at: a part of the clean models, drawn
again and again, is the references, the rest is judged. The second confirmation has references of its own. Cells: area under
the ROC curve / share of targets found / TPR of the verdict (D above its limit, p <= .05 or the least that can be had); the
last column is its false positives.

``activations`` are statistics of every ReLU against the noise level (size, share active, channels that take part, share of
the largest channel, largest over mean); ``stage k`` pours noise into the channels behind the k-th ReLU instead of the input,
``inside`` into the last features, together with combined. Fisher, harmonic and smallest combine the conformal p-values of the
curves, ranked again against those of the references.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from audit_zoo import FAMILIES, STAGES, family
from sklearn.metrics import roc_auc_score
from torch import nn

from gyrostat import titrate
from gyrostat.audit.bases import data_free
from gyrostat.audit.calibration import COMBINED
from gyrostat.audit.laws import draw_noise
from gyrostat.audit.panel import FEW, SUSPICIOUS, SUSPICIOUS_OF_FEW
from gyrostat.audit.stages import titrate_last_stage

NOISE = dict(zip(("structured", "white"), COMBINED, strict=True))
SOFTENING = {"structured": 0.02, "white": 0.05, "stage 0": 0.02, "stage 1": 0.02, "stage 2": 0.02, "inside": 0.02}
PEAKS = 0.1
SHARES_AND_PEAKS = ("structured", "structured peaks", "white", "white peaks")
STAGE_NOISE = ("stage 0", "stage 1", "stage 2")


def channels(a):
    return a.flatten(2) if a.ndim == 4 else a[..., None]  # (N, C, P)


@torch.no_grad()
def activations(model, x):
    """Six statistics of each ReLU, ``(stages * 6,)``."""
    found = []
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            a = channels(x)
            mean = a.mean(2)  # (N, C)
            total = mean.sum(1).clamp_min(1e-9)
            part = total**2 / (mean.square().sum(1).clamp_min(1e-12) * mean.shape[1])
            over = a.amax((1, 2)) / a.mean((1, 2)).clamp_min(1e-9)
            largest = mean.mean(0).max() / mean.mean(0).sum().clamp_min(1e-9)
            size, active = a.square().mean((1, 2)).sqrt().mean(), (a > 0).float().mean()
            found.append(torch.stack([size, active, part.mean(), (mean.amax(1) / total).mean(), over.mean(), largest]))
    return torch.cat(found)


@torch.no_grad()
def into_stage(model, k, shape, n=128):
    """The curve of noise poured into the channels behind the k-th ReLU, in units of their deviation."""
    at = [i for i, layer in enumerate(model) if isinstance(layer, nn.ReLU)][k] + 1
    a = model[:at](data_free("procedural", n, shape, 1))  # (N, C, ...)
    each = (1, -1) + (1,) * (a.ndim - 2)
    eta = torch.randn(*a.shape[:2], *each[2:], generator=torch.Generator().manual_seed(9 + k))
    eta = (eta * channels(a).std((0, 2)).reshape(each)).expand_as(a)
    return titrate(model[at:], a, noise=eta, sigmas=(0, 1, 2, 4, 8), clip=None, preprocess=lambda h: h.clamp_min(0))


def answers(member, zoo):
    """Everything that is asked of one member, kept beside its weights."""
    path = zoo / "answers" / f"{member.recipe.name}.npz"
    if path.exists():
        return dict(np.load(path))
    side = 8 if member.recipe.dataset == "digits" else 28
    shape = (1, side, side)
    found = {"inside": titrate_last_stage(member.model, input_shape=shape).features()}
    for name, kind in NOISE.items():
        kind = {k: v for k, v in kind.items() if k != "softening"}
        curve = titrate(member.model, input_shape=shape, **kind)
        found[name], found[f"{name} peaks"] = curve.features(), np.atleast_2d(np.asarray(curve.peaks))
        n, base = kind.get("n", 256), kind.get("base", "uniform")
        x, eta = data_free(base, n, shape, 0), draw_noise(kind.get("noise_law", "white"), 0, 0, slice(0, n), shape)
        levels = [activations(member.model, (x + s * eta).clamp(0, 1)) for s in kind["sigmas"]]
        found[f"activations, {name}"] = torch.stack(levels[1:]).mean(0).log().numpy()
        found[f"changes, {name}"] = (torch.stack(levels[1:]).mean(0).log() - levels[0].log()).numpy()
    for k in range(3):
        found[f"stage {k}"] = into_stage(member.model, k, shape).features()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **found)
    return found


def deviations(of, references, names):
    """t ``(Q, K)`` of one member against references, a row for each of the names."""
    rows = []
    for name in names:
        h = np.stack([r[name] for r in references])
        z = (of[name] - h.mean(0)) / (h.std(0, ddof=1) + SOFTENING.get(name, PEAKS))
        rows.append(np.abs(z)[None].max(0) if "," in name else z.max(0))
    return np.stack(rows)


def ranked(kind):
    """A combination of the conformal p-values of the curves: larger is more unusual."""
    by = {"smallest": lambda p: -p.min(), "Fisher": lambda p: -np.log(p).sum(), "harmonic": lambda p: (1 / p).mean()}

    def unusual(t, pool):
        p = (1 + (pool >= t.max(1)).sum(0)) / (len(pool) + 1)
        return by[kind](p)

    return unusual


def averaged(t, pool):
    return t.mean(0).max()


def largest(t, pool):
    return t.max()


# name: statistics, how they become one number, the limit of D: 0 is that of a panel
ROWS = {
    "white": (("white",), averaged, 4), "structured": (("structured",), averaged, 4),
    "white peaks": (("white peaks",), averaged, 4), "structured peaks": (("structured peaks",), averaged, 4),
    **{name: ((name,), averaged, 4) for name in STAGE_NOISE},
    **{f"{what}, {name}": ((f"{what}, {name}",), averaged, 4) for what in ("activations", "changes") for name in NOISE},
    "combined": (SHARES_AND_PEAKS, averaged, 0),
    "combined, maximum": (SHARES_AND_PEAKS, largest, 4),
    **{f"combined, {kind} p": (SHARES_AND_PEAKS, ranked(kind), None) for kind in ("smallest", "Fisher", "harmonic")},
    "inside": ((*SHARES_AND_PEAKS, "inside"), averaged, 0),
    "combined, all stages": ((*SHARES_AND_PEAKS, *STAGE_NOISE), averaged, 0),
}  # fmt: skip


def judge(row, references, clean, bad):
    """For each attack AUC, targets found, TPR of the verdict; then the false positives of it."""
    names, number, limit = ROWS[row]
    R = len(references)
    limit = limit if limit != 0 else SUSPICIOUS if R >= FEW else SUSPICIOUS_OF_FEW
    loo = [deviations(r, references[:i] + references[i + 1 :], names) for i, r in enumerate(references)]
    pool = np.stack([t.max(1) for t in loo])  # (R, Q)
    own = np.array([number(t, np.delete(pool, i, 0)) for i, t in enumerate(loo)])

    def verdict(of):
        t = deviations(of, references, names)
        D = number(t, pool)
        p = (1 + (own >= D - 1e-12).sum()) / (R + 1)
        return D, t.mean(0).argmax(), (limit is None or limit < D) and p <= max(0.05, 1 / (R + 1)) + 1e-12

    below, cells = [verdict(of) for of in clean], {}
    for attack, members in bad.items():
        above = [(*verdict(of), target) for of, target in members]
        auc = roc_auc_score([0] * len(below) + [1] * len(above), [v[0] for v in below + above])
        cells[attack] = (auc, np.mean([v[1] == v[3] for v in above]), np.mean([v[2] for v in above]))
    return cells, np.mean([v[2] for v in below])


def pooled(dataset, net, zoo):
    """The models of both earlier stages: clean ones together, backdoored ones by attack."""
    clean, bad = [], {}
    for stage in ("development", "confirmation"):
        attacks = None
        if stage == "confirmation" and dataset == "fashion-mnist":
            attacks = ("patch", "blended") if net == "plain" else ("patch",)
        references, others, found = family(dataset, net, stage, zoo, attacks)
        clean += references + others
        for attack, members in found.items():
            bad.setdefault(attack, []).extend(members)
    return clean, bad


def study(options):
    for dataset, net in [f for f in FAMILIES if f[1] != "recurrent"]:
        if f"{dataset}/{net}" not in (options.family or [f"{dataset}/{net}"]):
            continue
        if options.stage == "second":
            attacks = None if dataset == "digits" else ("patch", "checker", "blended")
            references, others, bad = family(dataset, net, "second", options.zoo, attacks)
            sets = {R: [(references[:R], others)] for R in (5, len(references))}
        else:
            clean, bad = pooled(dataset, net, options.zoo)
            orders = [np.random.default_rng(draw).permutation(len(clean)) for draw in range(options.draws)]
            sets = {R: [([clean[i] for i in o[:R]], [clean[i] for i in o[R:]]) for o in orders] for R in (5, 19)}
        asked = {a: [(answers(m, options.zoo), m.recipe.target) for m in members] for a, members in bad.items()}
        for R, draws in sets.items():
            print(
                f"\n{dataset}, {net}: {R} references, {len(draws[0][1])} clean, {[len(m) for m in bad.values()]} backdoored\n"
            )
            print(f"| answers | {' | '.join(bad)} | clean |\n|{'---|' * (len(bad) + 2)}")
            for row in options.only or ROWS:
                found = [judge(row, [answers(m, options.zoo) for m in r], [answers(m, options.zoo) for m in c], asked)
                         for r, c in draws]  # fmt: skip
                cells = [np.mean([f[0][a] for f in found], 0) for a in bad]
                said = [" / ".join("-" if np.isnan(v) else f"{v:.2f}" for v in cell) for cell in cells]
                print(f"| {row} | {' | '.join(said)} | {np.mean([f[1] for f in found]):.3f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--stage", choices=["study", *(s for s in STAGES if s == "second")], default="study")
    parser.add_argument("--family", nargs="*", help="such as digits/plain")
    parser.add_argument("--only", nargs="*", choices=ROWS)
    parser.add_argument("--draws", type=int, default=12, help="of the references, in the study")
    torch.set_num_threads(1)
    study(parser.parse_args())
