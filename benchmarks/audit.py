"""The detector on the zoo: every noise law and combination, side by side, in one run.

    GYROSTAT_DATA=... python benchmarks/audit.py study --zoo zoo --stage development
    ... audit.py study --zoo zoo --stage confirmation --only uniform/white "procedural/mixed, ε = .02"

Cells: area under the ROC curve over models / share of targets found / TPR at the largest D of the clean models /
TPR at D > 4. The last column: false positives at D > 4, and the largest D of a clean model.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from audit_zoo import FAMILIES, STAGES, family
from sklearn.metrics import roc_auc_score

from gyrostat import TitrationCurve, titrate
from gyrostat.audit.calibration import METHODS
from gyrostat.audit.reference import SOFTENING, deviation

LEVELS = (0, 0.2, 0.5, 1.0, 2.0)
PROBES = {
    f"{base}/{law}": {"base": base, "noise_law": law, "sigmas": LEVELS}
    for base, law in (
        ("uniform", "white"), ("procedural", "white"), ("uniform", "patches"), ("gray", "patches"), ("black", "patches"),
        ("procedural", "patches"), ("gray", "blobs"), ("procedural", "smooth"), ("procedural", "waves"),
    )
}  # fmt: skip
PROBES["procedural/mixed"] = {**METHODS["structured"]}
PROBES["procedural/mixed"].pop("softening")
FOUR = ("uniform/white", "procedural/patches", "gray/blobs", "procedural/smooth")


def curve(member, probe, zoo):
    """The curve of one member, kept beside its weights."""
    path = zoo / "curves" / f"{member.recipe.name}-{probe.replace('/', '-')}.json"
    if path.exists():
        return TitrationCurve.from_dict(json.loads(path.read_text()))
    side = 8 if member.recipe.dataset == "digits" else 28
    made = titrate(member.model, input_shape=(1, side, side), **PROBES[probe])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made.to_dict()))
    return made


def deviations(members, references, probes, zoo, softening):
    """z ``(M, Q, 3, K)`` of the members against the references, one probe after another."""
    of = []
    for probe in probes:
        h = np.stack([curve(m, probe, zoo).features() for m in references])
        of.append([deviation(curve(m, probe, zoo).features(), h, softening) for m in members])
    return np.array(of).swapaxes(0, 1)


def per_class(z, softening=0.5):
    """Each class against the spread of the others: z of a class minus the median of all, over their deviation."""
    middle = np.median(z, -1, keepdims=True)
    return (z - middle) / (np.median(np.abs(z - middle), -1, keepdims=True) * 1.4826 + softening)


COMBINATIONS = {
    **{probe: ((probe,), lambda z: z[:, 0]) for probe in PROBES},
    "max of four": (FOUR, lambda z: z.max(1)),
    "mean of four": (FOUR, lambda z: z.mean(1)),
    "second of four": (FOUR, lambda z: np.sort(z, 1)[:, -2]),
    "max of patches, blobs": (("procedural/patches", "gray/blobs"), lambda z: z.max(1)),
    "mean of patches, blobs": (("procedural/patches", "gray/blobs"), lambda z: z.mean(1)),
    "mean of all": (tuple(PROBES), lambda z: z.mean(1)),
    "mean of four, per class": (FOUR, lambda z: per_class(z.mean(1))),
    "procedural/mixed, ε = .02": (("procedural/mixed",), lambda z: z[:, 0]),
}


def judge(clean, bad, targets):
    """AUC, share of targets found, TPR at the largest clean D, false positives and detections at D > 4."""
    low, high = clean.max((-1, -2)), bad.max((-1, -2))
    found = bad.max(-2).argmax(-1)
    auc = roc_auc_score([0] * len(low) + [1] * len(high), np.r_[low, high])
    hits = np.mean([f == t for f, t in zip(found, targets)]) if targets[0] is not None else float("nan")
    return auc, hits, np.mean(high > low.max()), np.mean(low > 4), np.mean(high > 4)


def study(options):
    for dataset, net in FAMILIES:
        if f"{dataset}/{net}" not in (options.family or [f"{dataset}/{net}"]):
            continue
        references, clean, bad = family(dataset, net, options.stage, options.zoo, options.attacks)
        print(f"\n{dataset}, {net}: {len(references)} references, {len(clean)} clean\n", flush=True)
        print(f"| probe | {' | '.join(bad)} | clean: D > 4 |\n|{'---|' * (len(bad) + 2)}")
        for name, (probes, combine) in COMBINATIONS.items():
            if options.only and name not in options.only:
                continue
            softening = METHODS["structured"]["softening"] if "ε" in name else SOFTENING
            below, cells = combine(deviations(clean, references, probes, options.zoo, softening)), []
            for members in bad.values():
                above = combine(deviations(members, references, probes, options.zoo, softening))
                auc, hits, tpr, false, caught = judge(below, above, [m.recipe.target for m in members])
                cells.append(f"{auc:.2f} / {hits:.2f} / {tpr:.2f} / {caught:.2f}")
            print(f"| {name} | {' | '.join(cells)} | {false:.2f} ({below.max():.1f}) |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["study"])
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--stage", choices=STAGES, default="development")
    parser.add_argument("--family", nargs="*", help="such as digits/plain")
    parser.add_argument("--attacks", nargs="*")
    parser.add_argument("--only", nargs="*", help="names of rows")
    torch.set_num_threads(1)
    study(parser.parse_args())
