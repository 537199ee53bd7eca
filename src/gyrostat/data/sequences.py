"""One type for labelled sequences, whatever they come from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from .._errors import DataError
from .._rng import numpy_stream
from .rows import Rows

TASKS = ("classify", "tag", "regress", "predict")
IGNORED = -100  # the label that torch's cross-entropy passes over


@dataclass(frozen=True)
class SequenceData:
    """Sequences with labels or targets and a fixed split.

    Attributes:
        name: What the data set is called in reports.
        x: ``(N, T, F)`` float32, an array or :class:`Rows` made on demand; rows shorter than T are padded.
        y: int64 labels ``(N,)`` (``classify``) or ``(N, T)`` (``tag``; -100 does not count), or float32 targets ``(N, K)``
            (``regress``) or ``(N, T, K)`` (``predict``).
        task: ``"classify"`` or ``"regress"`` (one label or target per sequence), ``"tag"`` or ``"predict"`` (one per step).
        lengths: ``(N,)`` int64, or ``None`` when all sequences have length T.
        split: Row numbers of ``"train"``, ``"valid"`` and ``"test"``; of ``"test"`` alone where nothing is learned.
        classes: Names of the classes.
        features: Names of the features.
        licence: Licence of the data.
        provenance: Where the numbers come from, in a sentence.
        center: What was subtracted from each feature, if the values were standardised.
        scale: What each feature was divided by.

    Raises:
        DataError: The arrays do not fit together, hold NaN or Inf, or a classification has fewer than two classes.

    Example:
        >>> import numpy as np
        >>> data = SequenceData("toy", np.zeros((10, 5, 2), "float32"), np.arange(10) % 2, "classify")
        >>> data.n_outputs, len(data.split["train"])
        (2, 7)
    """

    name: str
    x: np.ndarray | Rows
    y: np.ndarray
    task: str
    lengths: np.ndarray | None = None
    split: dict[str, np.ndarray] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    licence: str = "as given by its owner"
    provenance: str = ""
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.x.ndim != 3:
            raise DataError(
                f"{self.name}: X must have shape (N, T, F), got {self.x.shape}; add an axis for a single feature"
            )
        if self.x.dtype.kind not in "fiub":
            raise DataError(f"{self.name}: X must hold numbers, got {self.x.dtype}")
        N, T, _ = self.x.shape
        fewest = 1 if set(self.split) == {"test"} else 4
        if fewest > N or T < 1:
            raise DataError(
                f"{self.name}: at least {fewest} sequences of length >= 1 are needed, got {N} of length {T}"
            )
        if self.x.shape[2] < 1:
            raise DataError(f"{self.name}: X has no features; its shape is {self.x.shape}")
        if not isinstance(self.x, Rows):
            put(self, "x", np.array(self.x, dtype=np.float32, order="C"))  # a copy: padding is zeroed below
        self._check_lengths(N, T)
        self._check_finite()
        if len(self.y) != N:
            raise DataError(f"{self.name}: X has {N} sequences and y has {len(self.y)} entries; they must match")
        self._check_targets(T)
        self._check_split(N)
        if not self.split:
            put(self, "split", random_split(self.y if self.task == "classify" else None, N))
        if not self.classes and self.labels:
            put(self, "classes", tuple(str(c) for c in range(int(self.y.max()) + 1)))
        if not self.features:
            put(self, "features", tuple(f"x{i}" for i in range(self.x.shape[2])))

    def _check_split(self, N: int) -> None:
        if not self.split:
            return
        for part, rows in self.split.items():
            if rows.ndim != 1 or rows.dtype.kind not in "iu" or not len(rows) or rows.min() < 0 or rows.max() >= N:
                raise DataError(f"{self.name}: {part} must be row numbers between 0 and {N - 1}, at least one")
        rows = np.concatenate(list(self.split.values()))
        if len(np.unique(rows)) != len(rows):
            raise DataError(
                f"{self.name}: train, valid and test share rows; a test row that was trained on tests nothing"
            )

    def _check_lengths(self, N: int, T: int) -> None:
        if self.lengths is None:
            return
        lengths = np.asarray(self.lengths)
        if lengths.shape != (N,) or lengths.dtype.kind not in "iu":
            raise DataError(f"{self.name}: lengths must be {N} integers, got {lengths.dtype} of shape {lengths.shape}")
        if lengths.min() < 1 or lengths.max() > T:
            row = int(np.flatnonzero((lengths < 1) | (lengths > T))[0])
            raise DataError(
                f"{self.name}: lengths must be between 1 and {T}, got {int(lengths[row])} for sequence {row}"
            )
        object.__setattr__(self, "lengths", lengths.astype(np.int64))
        if not isinstance(self.x, Rows):
            self.x[np.arange(T)[None, :] >= lengths[:, None]] = 0.0

    def _check_finite(self) -> None:
        if isinstance(self.x, Rows):
            return
        bad = ~np.isfinite(self.x)
        if bad.any():
            n, t, f = (int(i) for i in np.argwhere(bad)[0])
            raise DataError(
                f"{self.name}: X holds {self.x[n, t, f]} in sequence {n}, step {t}, feature {f}; "
                "fill the gap or drop the sequence, and give lengths for ragged data"
            )

    def _check_targets(self, T: int) -> None:
        if self.task not in TASKS:
            raise DataError(f"{self.name}: task must be one of {', '.join(TASKS)}, got {self.task!r}")
        y = np.asarray(self.y)
        if self.labels:
            want = (len(y),) if self.task == "classify" else (len(y), T)
            if y.shape != want or y.dtype.kind not in "iu":
                raise DataError(
                    f"{self.name}: labels must be integers of shape {want}, got {y.dtype} of shape {y.shape}"
                )
            counted = y if self.task == "classify" else y[y != IGNORED]
            if len(np.unique(counted)) < 2:
                only = f"all labels are {counted[0]}" if counted.size else "no label counts"
                raise DataError(f"{self.name}: {only}; a classification needs at least two classes")
            if counted.min() < 0:
                raise DataError(f"{self.name}: labels must be 0, 1, 2, ..., got {int(counted.min())}")
            object.__setattr__(self, "y", y.astype(np.int64))
            return
        want = 2 if self.task == "regress" else 3
        y = y[..., None] if y.ndim == want - 1 else y
        if y.ndim != want or (want == 3 and y.shape[1] != T):
            raise DataError(f"{self.name}: targets of a {self.task} task have the wrong shape {y.shape}")
        if not np.isfinite(y).all():
            raise DataError(f"{self.name}: y holds NaN or Inf in sequence {int(np.argwhere(~np.isfinite(y))[0][0])}")
        object.__setattr__(self, "y", np.ascontiguousarray(y, dtype=np.float32))

    @property
    def n_features(self) -> int:
        """Features F of each step."""
        return self.x.shape[2]

    @property
    def per_step(self) -> bool:
        """Whether there is a label or a target at every step."""
        return self.task in ("tag", "predict")

    @property
    def labels(self) -> bool:
        """Whether the answers are classes."""
        return self.task in ("classify", "tag")

    @property
    def n_outputs(self) -> int:
        """Classes, or numbers per target."""
        return len(self.classes) if self.labels else self.y.shape[-1]

    @property
    def content_hash(self) -> str:
        """A digest of all numbers and the split; a checkpoint belongs to exactly one."""
        return content_hash(self.x, self.y, self.lengths, self.split)

    def describe(self) -> str:
        """One line: sizes, task, split."""
        N, T, F = self.x.shape
        sizes = "/".join(str(len(self.split[k])) for k in ("train", "valid", "test"))
        kind = f"{self.n_outputs} classes" if self.labels else f"{self.n_outputs} target(s)"
        kind += " per step" if self.per_step else ""
        ragged = "up to " if self.lengths is not None else ""
        return f"{self.name}: {N} sequences of {ragged}{T} steps x {F} features, {kind}, train/valid/test {sizes}"


def content_hash(x: np.ndarray | Rows, y: np.ndarray, lengths: np.ndarray | None, split: dict[str, np.ndarray]) -> str:
    """A digest of all numbers and the split."""
    digest = hashlib.blake2b(digest_size=12)
    if isinstance(x, Rows):
        digest.update(f"{x.key}{x.shape}".encode())
        x = x.stored
    for array in (x, y, lengths, *(split[k] for k in sorted(split))):
        if array is not None:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def random_split(labels: np.ndarray | None, n: int, seed: int = 0, shares: tuple[float, float] = (0.7, 0.15)) -> dict:
    """Row numbers for train, valid and test, drawn within each class where labels are given."""
    rng = numpy_stream(seed, "split")
    parts: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    groups = [np.arange(n)] if labels is None else [np.flatnonzero(labels == c) for c in np.unique(labels)]
    for group in groups:
        order = rng.permutation(group)
        a, b = round(shares[0] * len(order)), round((shares[0] + shares[1]) * len(order))
        parts["train"] += order[:a].tolist()
        parts["valid"] += order[a:b].tolist()
        parts["test"] += order[b:].tolist()
    if not parts["valid"] or not parts["test"]:
        order = rng.permutation(n)
        # each part has a row, however few there are
        b = max(2, min(n - 1, round((shares[0] + shares[1]) * n)))
        a = max(1, min(b - 1, round(shares[0] * n)))
        parts = {"train": order[:a].tolist(), "valid": order[a:b].tolist(), "test": order[b:].tolist()}
    return {k: np.array(sorted(v), dtype=np.int64) for k, v in parts.items()}
