"""What influence scores say: which training samples helped or hurt, which look mislabelled, and the pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .._checks import Integer
from .._errors import ArgumentError
from .._results import Result


@dataclass(frozen=True)
class Influence(Result):
    """Influence of every training sample on every test sample; positive means it helped.

    Attributes:
        scores: ``(n_test, n_train)``; on the scale ``"loo"`` the predicted rise of the test loss when the training
            sample is left out (weights kept at 1/n), on ``"raw"`` n times that.
        self_scores: ``(n_train,)``, each training sample's influence on its own loss, at least 0; None where not asked.
        y_train: ``(n_train,)`` labels.
        y_test: ``(n_test,)`` labels.
        scale: ``"loo"`` or ``"raw"``.
        solver: ``"woodbury"``, ``"cholesky"``, ``"pinv"`` or ``"cg"``.
        curvature: ``"closed form"``, ``"hessian"`` or ``"gauss_newton"``.
        n_parameters: Parameters whose influence was taken.
        l2: Weight decay inside the curvature.
        damping: What was added beyond it.
        residual: Largest relative residual of the solves.
        iterations: Curvature products spent, or corrections of a direct solve: mostly 0.
        rank: Directions in which the curvature was inverted; softmax leaves out d + 1 of a head's.
        gradient_norm: Norm of the gradient of the objective at these weights, over the root mean square of the samples'
            gradient norms; the theory wants 0.
        message: What to think of the numbers, in words.
    """

    scores: Tensor = field(repr=False)
    self_scores: Tensor | None = field(repr=False)
    y_train: Tensor = field(repr=False)
    y_test: Tensor = field(repr=False)
    scale: str
    solver: str
    curvature: str
    n_parameters: int
    l2: float
    damping: float
    residual: float
    iterations: int
    rank: int
    gradient_norm: float
    message: str

    def top(self, k: int = 5, *, harmful: bool = False) -> Tensor:
        """Rows of the ``k`` most helpful (or most harmful) training samples of each test sample, ``(n_test, k)``."""
        self._count("k", k)
        order = (self.scores if harmful else -self.scores).argsort(dim=1, stable=True)
        return order[:, :k]

    def same_class(self, k: int = 1) -> Tensor:
        """For each rank up to ``k``: the share of test samples whose helper at that rank has their label, ``(k,)``."""
        return (self.y_train[self.top(k)] == self.y_test[:, None]).double().mean(0)

    def at_least(self, m: int, k: int) -> float:
        """Share of test samples with ``m`` or more of their own class among their ``k`` most helpful."""
        same = (self.y_train[self.top(k)] == self.y_test[:, None]).sum(1)
        return float((same >= m).double().mean())

    def suspects(self, k: int | None = None) -> Tensor:
        """Training rows from the largest self-influence down: where labels are wrong, they come first."""
        if self.self_scores is None:
            raise ArgumentError("suspects: there are no self-influences; call influence_scores(..., self_scores=True)")
        k = len(self.self_scores) if k is None else k
        self._count("k", k)
        return (-self.self_scores).argsort(stable=True)[:k]

    def _count(self, name: str, value: int) -> None:
        Integer(low=1, high=len(self.y_train)).check(name, value, "Influence")

    def plot(
        self,
        x_train: Tensor,
        x_test: Tensor,
        tests: Sequence[int] = (0, 1, 2, 3, 4),
        k: int = 5,
        *,
        classes: Sequence[str] = (),
    ) -> Any:
        """A figure: each row a test image, its ``k`` most helpful training images, its ``k`` most harmful ones.

        Args:
            x_train: Training images ``(n_train, C, H, W)`` or ``(n_train, H, W)`` in [0, 1].
            x_test: Test images, likewise.
            tests: Rows of the test images to show.
            k: Images on either side.
            classes: Names of the classes.
        """
        from ..report.figures import new_figure

        rows = list(tests)
        for row in rows:
            Integer(low=0, high=len(self.y_test) - 1).check("tests", row, "Influence.plot")
        helpful, harmful = self.top(k), self.top(k, harmful=True)
        figure, axes = new_figure(len(rows), 2 * k + 1, width=1.05 * (2 * k + 1), height=1.25 * len(rows))
        names = list(classes) or [str(c) for c in range(int(max(self.y_train.max(), self.y_test.max())) + 1)]
        for i, row in enumerate(rows):
            line = axes[i * (2 * k + 1) : (i + 1) * (2 * k + 1)]
            cells = [(x_test[row], self.y_test[row], None)]
            for chosen in (helpful[row], harmful[row]):
                cells += [(x_train[j], self.y_train[j], float(self.scores[row, j])) for j in chosen.tolist()]
            for position, (ax, (image, label, score)) in enumerate(zip(line, cells)):
                show_image(ax, image)
                words = names[int(label)] + ("" if score is None else f"\n{score:+.1e}")
                ax.set_title(words, fontsize=7, loc="center")
                for spine in ax.spines.values():
                    spine.set(visible=True, linewidth=2, color=("0.3", "#009E73", "#D55E00")[(position + k - 1) // k])
        return figure


def show_image(ax: Any, image: Tensor) -> None:
    """One image ``(C, H, W)`` or ``(H, W)`` in [0, 1] without axes; one channel is grey, three are colours."""
    pixels = image.detach().cpu().double().clamp(0, 1)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    pixels = pixels if len(pixels) == 3 else pixels.mean(0, keepdim=True).expand(3, -1, -1)
    ax.imshow(pixels.permute(1, 2, 0).numpy(), interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
