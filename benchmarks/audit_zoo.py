"""The zoo on disk: every member is trained once and kept as safetensors with a line of JSON.

GYROSTAT_DATA=... python benchmarks/audit_zoo.py --zoo zoo --stage development     # trains, then prints a table
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from gyrostat.testing.zoo import Member, Recipe, as_row, build, train

COMMON = ("patch", "checker", "blended", "sinusoid", "pattern", "all-to-all", "label-consistent")
FAMILIES = {
    ("digits", "plain"): COMMON,
    ("digits", "batchnorm"): COMMON,
    ("digits", "recurrent"): ("tone", "patch"),
    ("fashion-mnist", "plain"): ("patch", "checker", "blended", "pattern"),
    ("fashion-mnist", "batchnorm"): ("patch", "checker", "blended", "pattern"),
}
# seeds of references, of clean models to judge, of backdoored models
STAGES = {
    "development": (range(5), range(5, 15), range(8)),
    "confirmation": (range(100, 105), range(105, 125), range(100, 110)),
    "second": (range(200, 219), range(220, 240), range(200, 210)),
}


def member(recipe, zoo):
    """The member from its files, or trained and written there."""
    weights, facts = zoo / f"{recipe.name}.safetensors", zoo / f"{recipe.name}.json"
    if facts.exists():
        row = json.loads(facts.read_text())
        model = build(recipe.dataset, recipe.net)
        model.load_state_dict(load_file(weights))
        return Member(recipe, model.eval(), row["accuracy"], row["success"])
    zoo.mkdir(parents=True, exist_ok=True)
    made = train(recipe)
    save_file(made.model.state_dict(), weights)
    facts.write_text(json.dumps(as_row(made)))
    return made


def family(dataset, net, stage, zoo, attacks=None):
    """References, clean members, and backdoored members by attack."""
    references, clean, bad = STAGES[stage]
    of = [[member(Recipe(dataset, net, "clean", s), zoo) for s in seeds] for seeds in (references, clean)]
    chosen = FAMILIES[dataset, net] if attacks is None else [a for a in FAMILIES[dataset, net] if a in attacks]
    return *of, {a: [member(Recipe(dataset, net, a, s), zoo) for s in bad] for a in chosen}


def spread(values):
    return f"{sum(values) / len(values):.2f} ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--stage", choices=STAGES, default="development")
    parser.add_argument("--dataset", choices=sorted({d for d, _ in FAMILIES}))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| images | network | attack | models | clean accuracy | attack success |\n|---|---|---|---|---|---|")
    for dataset, net in FAMILIES:
        if options.dataset in (None, dataset):
            references, clean, bad = family(dataset, net, options.stage, options.zoo)
            rows = defaultdict(list, {"clean": references + clean, **bad})
            for attack, members in rows.items():
                success = "" if attack == "clean" else spread([m.success for m in members])
                accuracy = spread([m.accuracy for m in members])
                print(f"| {dataset} | {net} | {attack} | {len(members)} | {accuracy} | {success} |", flush=True)
