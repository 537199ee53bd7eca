from contextlib import contextmanager

import numpy as np

from gyrostat.sketch import native


def polynomial(n=2000, d=30, seed=0, values=None):
    g = np.random.default_rng(seed)
    U, V = np.linalg.qr(g.standard_normal((n, d)))[0], np.linalg.qr(g.standard_normal((d, d)))[0]
    s = 1.0 / np.arange(1, d + 1) if values is None else np.asarray(values)
    return U * s @ V.T, U, s, V


def sine(a, b):
    return np.sqrt(np.maximum(0, 1 - np.abs(np.sum(a.conj() * b, axis=0)) ** 2))


def blocks_of(A, step=700):
    return lambda: (A[a : a + step] for a in range(0, len(A), step))


@contextmanager
def threads_for_any_size():
    """A second thread also where it does not pay."""
    before, native.ALONE = native.ALONE, 0
    try:
        yield
    finally:
        native.ALONE = before
