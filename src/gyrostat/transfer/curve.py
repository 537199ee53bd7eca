"""Accuracy against the number of labels, for several sources on the same nested subsets.

    accuracy(source, n) = mean over subsets S_1, ..., S_m of size n of the test accuracy of fine_tune(source, S_j)

Source: the learning curves of Adversarially-Trained Deep Nets Transfer Better, arXiv:2007.05869.
Differs from the released code: subsets are stratified and nested, S_j(n) ⊂ S_j(n') for n < n', and the same for all sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import Integer
from .._errors import ArgumentError
from .._results import Result
from .._rng import torch_stream
from ..perturb.attack import check_logits, evaluation_mode
from .fine_tune import fine_tune
from .parts import labelled


def stratified_subsets(y: Tensor, sizes: Sequence[int], *, seed: int = 0) -> list[Tensor]:
    """Row numbers of labelled subsets: each holds the smaller ones, classes as frequent as in ``y``.

    Args:
        y: ``(N,)`` labels.
        sizes: Sizes, in any order; from the number of classes up every class is there.
        seed: Another seed, another chain of subsets.

    Returns:
        One ``(n,)`` tensor for each size.

    Raises:
        ArgumentError: A size that is not between 1 and N.

    Source: arXiv:2007.05869, whose first runs guaranteed every class once.

    Example:
        >>> import torch
        >>> y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        >>> small, large = stratified_subsets(y, [2, 4], seed=1)
        >>> sorted(y[small].tolist()), sorted(y[large].tolist()), set(small.tolist()) <= set(large.tolist())
        ([0, 1], [0, 0, 1, 1], True)
    """
    for n in sizes:
        Integer(low=1, high=len(y)).check("labels", n, "stratified_subsets")
    stream = torch_stream(seed, "subset")
    key = torch.empty(len(y), dtype=torch.float64)
    for label in torch.unique(y).tolist():
        rows = (y == label).nonzero()[:, 0].cpu()
        rows = rows[torch.randperm(len(rows), generator=stream)]
        offset = torch.rand((), generator=stream, dtype=torch.float64)
        # the r-th of a class stands at the share (r + u) / N_c of it, so that a prefix of the order has all classes in
        # proportion; the first of every class stands before all others
        key[rows] = (torch.arange(len(rows)) + offset) / len(rows)
        key[rows[0]] -= 1
    order = key.argsort()
    return [order[:n] for n in sizes]


@dataclass(frozen=True)
class LearningCurve(Result):
    """Test accuracy of several sources against the number of labels.

    Attributes:
        labels: Numbers of labels.
        sources: Names of the sources.
        accuracy: ``{source: {n: (one accuracy per subset)}}``.
        n_test: Test samples behind each.
        settings: How it was fine-tuned.
    """

    labels: tuple[int, ...]
    sources: tuple[str, ...]
    accuracy: dict[str, dict[int, tuple[float, ...]]]
    n_test: int
    settings: dict[str, Any]

    def mean(self, source: str) -> list[float]:
        """Mean over the subsets, for each number of labels."""
        return [sum(a) / len(a) for a in (self.accuracy[source][n] for n in self.labels)]

    def spread(self, source: str) -> list[float]:
        """Standard deviation over the subsets."""
        return [float(torch.tensor(self.accuracy[source][n]).std(correction=len(self.accuracy[source][n]) > 1))
                for n in self.labels]  # fmt: skip

    def gain(self, source: str, over: str) -> list[tuple[float, float]]:
        """Mean paired difference to another source and its standard error, for each number of labels."""
        found = []
        for n in self.labels:
            d = torch.tensor(self.accuracy[source][n]) - torch.tensor(self.accuracy[over][n])
            error = float(d.std()) / len(d) ** 0.5 if len(d) > 1 else float("nan")
            found.append((float(d.mean()), error))
        return found

    def plot(self, ax: Any = None) -> Any:
        """Accuracy against labels on a logarithmic axis; bands are one standard deviation over the subsets."""
        from matplotlib.ticker import NullFormatter, NullLocator

        from ..report.figures import new_figure, style

        ax = new_figure()[1][0] if ax is None else ax
        for i, source in enumerate(self.sources):
            mean, spread = self.mean(source), self.spread(source)
            ax.plot(self.labels, mean, label=source, **style(i))
            low, high = ([m + s * d for m, d in zip(mean, spread)] for s in (-1, 1))
            ax.fill_between(self.labels, low, high, color=style(i)["color"], alpha=0.15, linewidth=0)
        ax.set_xscale("log")
        ax.set_xticks(self.labels, [str(n) for n in self.labels])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set(xlabel="labelled target images", ylabel="test accuracy")
        ax.legend(loc="lower right")
        return ax


Point = tuple[str, int, int]


def learning_curve(
    sources: Mapping[str, nn.Module],
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    labels: Sequence[int],
    subsets: int = 4,
    seed: int = 0,
    done: Mapping[Point, float] | None = None,
    on_point: Callable[[Point, float], None] | None = None,
    **settings: Any,
) -> LearningCurve:
    """Fine-tune every source on the same subsets of growing size, and test.

    Args:
        sources: Name to network.
        train: ``(x, y)`` from which subsets are drawn.
        test: ``(x, y)``.
        labels: Numbers of labels.
        subsets: Chains of subsets.
        seed: Seed of the subsets and of the fine-tuning.
        done: Accuracies ``{(source, n, subset): value}`` that are known already, of an interrupted run.
        on_point: Called with each point and its accuracy.
        **settings: Of :func:`fine_tune`.

    Raises:
        ArgumentError: No source, a number of labels that the training data do not have.

    Source: arXiv:2007.05869.

    Example:
        >>> import torch
        >>> x, y = torch.randn(40, 3), torch.arange(40) % 2
        >>> curve = learning_curve({"any": torch.nn.Linear(3, 2)}, (x, y), (x, y), labels=[4, 8], subsets=2, epochs=1)
        >>> curve.labels, len(curve.accuracy["any"][8])
        ((4, 8), 2)
    """
    where = "learning_curve"
    Integer(low=1).check("subsets", subsets, where)
    if not sources or not labels:
        raise ArgumentError(f"{where}: give at least one source and one number of labels")
    x, y = labelled(train, where, "train")
    xt, yt = labelled(test, where, "test")
    sizes = sorted(set(labels))
    classes = max(int(y.max()), int(yt.max())) + 1
    chains = [stratified_subsets(y, sizes, seed=seed + j) for j in range(subsets)]
    known = dict(done or {})
    accuracy: dict[str, dict[int, tuple[float, ...]]] = {name: {} for name in sources}
    for i, n in enumerate(sizes):
        for name, model in sources.items():
            for j in range(subsets):
                point = (name, n, j)
                if point not in known:
                    rows = chains[j][i].to(y.device)
                    tuned = fine_tune(model, (x[rows], y[rows]), num_classes=classes, seed=seed + j, **settings)
                    known[point] = accuracy_of(tuned.model, xt, yt, where="learning_curve")
                    if on_point:
                        on_point(point, known[point])
            accuracy[name][n] = tuple(known[name, n, j] for j in range(subsets))
    return LearningCurve(tuple(sizes), tuple(sources), accuracy, len(yt), dict(settings))


@torch.no_grad()
def accuracy_of(
    model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, batch_size: int = 512, where: str = "accuracy"
) -> float:
    """Share of right answers in evaluation mode."""
    right = 0
    with evaluation_mode(model):
        for part, target in zip(x.split(batch_size), y.split(batch_size)):
            output = model(part)
            check_logits(output, target, where)
            right += int((output.argmax(-1) == target).sum())
    return right / len(y)
