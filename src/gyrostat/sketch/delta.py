"""E e_R,j² ≈ Σ_{l≠j} M_jl/(λ_j-λ_l)²,  E e_L,j² ≈ Σ_{l≠j} (λ_l/λ_j) M_jl/(λ_j-λ_l)²,  E e_σ,j² ≈ (M_jj-λ_j²/t)/(4λ_j).

λ_j = s̃_j², X = Ã V, M_jl = Σ_i |x_ij|²|x_il|²: first-order errors of the sketch without any resampling. They agree with
the mean squares of the bootstrap to about 10 % where the errors are small, and say which neighbour causes them.

Source: first-order perturbation theory of the bootstrap of arXiv:2003.04937; the released code has no such form.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._checks import Integer, check
from .._errors import ArgumentError
from .bootstrap import METRICS
from .replicates import law, spread
from .sketches import Sketch


def delta_error(result: Any, k: int) -> dict[str, np.ndarray]:
    """Root mean square errors of the first k singular values and vectors, from the sketch alone.

    Args:
        result: What :func:`sketched_svd` returned, or a :class:`Sketch` without power passes.
        k: Components.

    Returns:
        Metric to (k,): "values" (absolute), "left", "right" (sine of the angle); infinite for tied values.

    Raises:
        ArgumentError: No sketch, a power sketch, or more components than it can carry.

    Example:
        >>> import numpy as np
        >>> from gyrostat import sketched_svd
        >>> from gyrostat.sketch.delta import delta_error
        >>> A = np.random.default_rng(0).standard_normal((2000, 20)) / np.arange(1, 21)
        >>> delta_error(sketched_svd(A, 2, 400), 2)["right"].shape
        (2,)
    """
    check({"k": Integer(low=1)}, {"k": k}, "delta_error")
    found = result if isinstance(result, Sketch) else result.sketch
    if found is None or found.power:
        raise ArgumentError("delta_error: result must come from a sketch without power passes; use bootstrap_error")
    Y = found.matrix
    if k > min(Y.shape):
        raise ArgumentError(f"delta_error: k must be at most {min(Y.shape)} for a sketch of shape {Y.shape}, got {k}")
    s, V = found.spectrum(k)
    unit = float(s[0]) or 1.0  # squares of squares follow
    X, s = Y @ (V / unit), s / unit  # (t, r), (r,)
    lam = s**2
    power = np.abs(X) ** 2
    known = law(found)[0]
    factor = spread(X) if known is None else np.full((len(s), len(s)), known)
    M = (power[:, :k].T @ power) * factor[:k] ** 2  # (k, r)
    gap = (lam[:k, None] - lam[None, :]) ** 2
    own = np.eye(k, len(s), dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        right = np.where(own, 0.0, M / gap)
        left = right * lam[None, :] / lam[:k, None]
        moved = np.diagonal(M) - np.diagonal(factor)[:k] ** 2 * lam[:k] ** 2 / len(X)
        values = np.sqrt(np.maximum(moved, 0.0) / (4 * lam[:k]))
    rms = {"values": values * unit, "left": np.sqrt(left.sum(axis=1)), "right": np.sqrt(right.sum(axis=1))}
    if getattr(result, "transposed", False):
        rms["left"], rms["right"] = rms["right"], rms["left"]
    return {m: rms[m] for m in METRICS}
