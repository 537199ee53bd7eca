"""One study of transfer: sources trained naturally and adversarially, fine-tuned on few labels of another data set.

Everything is kept in one folder as it is finished, sources epoch by epoch and accuracies point by point, so that the same
call goes on after an interruption.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import Integer, Real, check
from .._errors import ArgumentError, CheckpointError
from ..data.images import ImageData
from ..report.page import write_atomically
from ..transfer.adversarial import AdversarialTraining, robust_accuracy
from ..transfer.curve import LearningCurve, learning_curve
from .sources import load_source, source_config, train_source

NATURAL, ADVERSARIAL = "natural", "adversarial"
_RULES = {
    "epochs": Integer(low=1),
    "source_lr": Real(low=0, closed="neither"),
    "width": Integer(low=1),
    "seeds": Integer(low=1),
    "subsets": Integer(low=1),
    "test_limit": Integer(low=1),
    "robust_limit": Integer(low=1),
}


@dataclass(frozen=True)
class Study:
    """Settings of a study.

    Attributes:
        labels: Numbers of labels.
        adversarial: ``norm:eps:steps`` of the adversarial source.
        epochs: Of a source.
        source_lr: Learning rate of a source.
        width: Channels of the first convolution of a source.
        seeds: Sources of each kind.
        subsets: Label subsets for each number.
        test_limit: Most test images of the target.
        robust_limit: Most test images for the robust accuracy.
        seed: First seed.
        fine_tuning: Settings of :func:`gyrostat.transfer.fine_tune.fine_tune`.
    """

    labels: tuple[int, ...]
    adversarial: str = "l2:0.5:3"
    epochs: int = 8
    source_lr: float = 0.05
    width: int = 16
    seeds: int = 1
    subsets: int = 4
    test_limit: int = 2000
    robust_limit: int = 500
    seed: int = 0
    fine_tuning: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        check(_RULES, asdict(self), "transfer")
        for n in self.labels:
            Integer(low=1).check("labels", n, "transfer")

    @property
    def strategy(self) -> AdversarialTraining:
        """The strategy of the adversarial source, on images in [0, 1]."""
        return AdversarialTraining.parse(self.adversarial, (0.0, 1.0))


@dataclass(frozen=True)
class Found:
    """What a study found.

    Attributes:
        curve: Accuracy against labels, all seeds and subsets.
        models: ``{name: one network per seed}``.
        sources: Per name and seed: own accuracy, and robust accuracy under the study's attack with 20 steps.
    """

    curve: LearningCurve
    models: dict[str, list[nn.Module]]
    sources: list[dict[str, Any]]


def tensors(images: ImageData, part: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Images and labels of a part, as tensors."""
    x, y = images.part(part, limit)
    return torch.from_numpy(x), torch.from_numpy(y)


def run_study(
    source: ImageData | dict[str, Path],
    target: ImageData,
    study: Study,
    folder: Path,
    *,
    tell: Callable[[str], None] | None = None,
    device: str | None = None,
) -> Found:
    """Run a study, or go on with one.

    Args:
        source: Images on which both kinds of source are trained, or trained runs by name.
        target: Images of the target, of a size and with channels that the sources take.
        study: How.
        folder: ``config.json``, ``points.jsonl``, and one run folder for each source trained here.
        tell: Told what is going on, a line at a time.
        device: Where sources are trained.

    Raises:
        ArgumentError: More labels asked for than there are.
        CheckpointError: ``folder`` holds a study of other settings or data.
    """
    say = tell or (lambda words: None)
    x, y = tensors(target, "train")
    test = tensors(target, "test", study.test_limit)
    if max(study.labels) > len(y):
        raise ArgumentError(f"transfer: labels asks for {max(study.labels)}; {target.name} has {len(y)} for training")
    facts = json.loads(json.dumps({
        "study": asdict(study),
        "source": {n: str(p) for n, p in source.items()} if isinstance(source, dict) else
        [source.name, source.content_hash],
        "target": [target.name, target.content_hash],
    }))  # fmt: skip
    known = folder / "config.json"
    if known.is_file() and json.loads(known.read_text()) != facts:
        raise CheckpointError(f"{folder}: holds a study of other settings or data; choose another folder, or --force")
    write_atomically(known, json.dumps(facts, indent=1).encode())
    models, rows = _sources(source, study, folder, say, device)
    done, path = {}, folder / "points.jsonl"
    if path.is_file():
        done = {(n, k, j, s): a for n, k, j, s, a in map(json.loads, path.read_text().splitlines())}
    curves = []
    for s in range(len(next(iter(models.values())))):
        mine = {(n, k, j): a for (n, k, j, seed), a in done.items() if seed == s}

        def keep(point: tuple[str, int, int], accuracy: float, s: int = s) -> None:
            done[*point, s] = accuracy
            lines = "".join(json.dumps([*key, value]) + "\n" for key, value in done.items())
            write_atomically(path, lines.encode())
            say(f"{point[0]} source, {point[1]} labels, subset {point[2] + 1}: {accuracy:.3f}")

        curves.append(
            learning_curve(
                {name: found[s] for name, found in models.items()}, (x, y), test, labels=study.labels,
                subsets=study.subsets, seed=study.seed + 1000 * s, done=mine, on_point=keep, **dict(study.fine_tuning),
            )
        )  # fmt: skip
    first = curves[0]
    merged = {
        name: {n: tuple(a for c in curves for a in c.accuracy[name][n]) for n in first.labels} for name in first.sources
    }
    return Found(LearningCurve(first.labels, first.sources, merged, first.n_test, first.settings), models, rows)


def _sources(
    source: ImageData | dict[str, Path], study: Study, folder: Path, say: Callable[[str], None], device: str | None
) -> tuple[dict[str, list[nn.Module]], list[dict[str, Any]]]:
    models: dict[str, list[nn.Module]] = {}
    rows: list[dict[str, Any]] = []
    if isinstance(source, dict):
        for name, path in source.items():
            model, facts = load_source(path)
            models[name] = [model]
            result = path / "result.json"
            score = json.loads(result.read_text()).get("test_score") if result.is_file() else None
            rows.append({"source": name, "seed": None, "accuracy": score, "robust": None, "data": facts.get("data")})
        return models, rows
    x, y = tensors(source, "test", study.robust_limit)
    for name, strategy in ((NATURAL, None), (ADVERSARIAL, study.strategy)):
        models[name] = []
        for s in range(study.seeds):
            config = source_config(study.epochs, study.source_lr, 100, study.seed + s)

            def told(row: dict[str, Any], name: str = name, s: int = s) -> None:
                say(f"{name} source {s + 1}/{study.seeds}, epoch {row['epoch']}/{study.epochs}: loss "
                    f"{row['train_loss']:.3f}, validation {row['valid_score']:.3f}")  # fmt: skip

            run = train_source(
                source, config, folder / f"source-{name}-{s}", width=study.width, strategy=strategy, on_epoch=told,
                device=device,
            )  # fmt: skip
            model = run.model.cpu().eval()
            models[name].append(model)
            attack = study.strategy
            robust = robust_accuracy(model, (x, y), norm=attack.norm, eps=attack.eps, steps=20)
            rows.append({"source": name, "seed": study.seed + s, "accuracy": run.result["test_score"], "robust": robust,
                         "data": source.name})  # fmt: skip
            say(f"{name} source {s + 1}: accuracy {run.result['test_score']:.3f}, robust {robust:.3f}")
    return models, rows
