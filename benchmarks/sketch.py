"""Sketched SVD on real matrices, beside its peers, under a memory limit, and against the number of rows.

    GYROSTAT_DATA=folder python benchmarks/sketch.py real      Fashion-MNIST, a term-document matrix, an ECG trajectory
    python benchmarks/sketch.py peers                          randomized_svd, svd_lowrank, fbpca, dask svd_compressed
    python benchmarks/sketch.py cost --picture cost.png        error bars, memory bandwidth, cost against n
    python benchmarks/sketch.py products                       A'(A V) of few columns, by the kernel and by numpy
    python benchmarks/sketch.py memory                         a file twice as large as the address space allowed

Errors are the largest sine over the first k right singular vectors, against an exact decomposition. Peak memory is that of
a process of its own, less what it held before the call. `peers` interleaves all methods in one process. numpy's BLAS picks
its kernel by the processor unless OPENBLAS_CORETYPE is set; the first line says which it was.
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import os
import re
import resource
import statistics
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spl
import threadpoolctl

from gyrostat import SketchWarning, bootstrap_error, certify, sketched_svd, svd
from gyrostat.sketch import native
from gyrostat.sketch.npy import NpyFile
from gyrostat.sketch.rows import as_rows, row_energy
from gyrostat.sketch.sketches import sketch

warnings.simplefilter("ignore", SketchWarning)


ROUNDING = {"float64": 1e-7, "float32": 1e-6}  # of the sines measured here


def polynomial(n, d, dtype=np.float64, seed=0, decay=1.0):
    random = np.random.default_rng(seed)
    A = np.empty((n, d), dtype)
    mix = np.linalg.qr(np.random.default_rng(1).standard_normal((d, d)))[0].T / np.arange(1, d + 1)[:, None] ** decay
    for a in range(0, n, 20_000):
        A[a : a + 20_000] = random.standard_normal((min(20_000, n - a), d)) @ mix
    return A


def exact_right(A, k):
    if sp.issparse(A):
        s, Vt = spl.svds(A.astype(float), k, random_state=0)[1:]
        return s[::-1], Vt[::-1].T
    gram = np.zeros((A.shape[1],) * 2)
    for a in range(0, A.shape[0], 50_000):
        block = np.asarray(A[a : a + 50_000], float)
        gram += block.T @ block
    values, V = np.linalg.eigh(gram)
    return np.sqrt(np.maximum(values[::-1][:k], 0)), V[:, ::-1][:, :k]


def sines(V, Vt):
    return np.sqrt(np.maximum(0.0, 1 - np.sum(V.T * Vt, axis=1) ** 2))


def fashion_mnist():
    folder = Path(os.environ["GYROSTAT_DATA"]) / "fashion-mnist"
    parts = [gzip.decompress((folder / f"{p}-images-idx3-ubyte.gz").read_bytes())[16:] for p in ("train", "t10k")]
    return np.concatenate([np.frombuffer(p, np.uint8).reshape(-1, 784) for p in parts]).astype(np.float32) / 255


def term_document():
    """Verses by words, log(1 + count) times inverse document frequency, each row of unit length."""
    text = gzip.decompress((Path(os.environ["GYROSTAT_DATA"]) / "kjv.txt.gz").read_bytes()).decode()
    verses = [re.findall(r"[a-z]+", line.lower()) for line in text.splitlines() if line.strip()]
    words = {w: i for i, w in enumerate(sorted({w for v in verses for w in v}))}
    of = np.repeat(np.arange(len(verses)), [len(v) for v in verses])
    column = np.array([words[w] for v in verses for w in v])
    counts = sp.csr_matrix((np.ones(len(of)), (of, column)), (len(verses), len(words)))
    idf = np.log(len(verses) / np.maximum(1, np.bincount(counts.indices, minlength=len(words))))
    counts.data = np.log1p(counts.data) * idf[counts.indices]
    norm = np.sqrt(np.asarray(counts.multiply(counts).sum(1)).ravel())
    return sp.diags(1 / np.where(norm > 0, norm, 1)) @ counts


def ecg_trajectory(window=200):
    """All windows of the first lead of MIT-BIH record 100 (format 212: two 12-bit numbers in three bytes)."""
    raw = np.fromfile(Path(os.environ["GYROSTAT_DATA"]) / "wfdb" / "100.dat", np.uint8).reshape(-1, 3).astype(np.int16)
    lead = ((raw[:, 1] & 0x0F) << 8) | raw[:, 0]
    lead = (np.where(lead > 2047, lead - 4096, lead) - 1024) / 200.0  # millivolts
    return np.lib.stride_tricks.sliding_window_view(lead, window)


def in_a_process(task, *args):
    """Result, seconds and added peak memory in MiB of ``task(*args)``, in a forked process."""
    parent, child = multiprocessing.Pipe()

    def work():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        try:
            found = task(*args)
        except BaseException as error:
            found = f"{type(error).__name__}: {error}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        child.send((found, time.perf_counter() - start, peak / 1024))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    answer = parent.recv()
    process.join()
    return answer


def show(name, found, seconds, peak, s, V):
    if isinstance(found, str):
        print(f"{name:44s} {found}", flush=True)
        return
    truth = {"values": np.abs(found.s - s).max(), "right": sines(V, found.Vt).max()}
    bound = found.bounds.simultaneous if found.bounds is not None else {}
    words = "  ".join(f"{m} {e:.2g} (bound {bound.get(m, float('nan')):.2g})" for m, e in truth.items())
    print(f"{name:44s} {seconds:6.2f} s  {peak:5.0f} MiB  {words}  {found.note}", flush=True)
    for sentence in found.bounds.warnings if found.bounds is not None else ():
        print(f"    note: {sentence}")


def real() -> None:
    sources = {
        "Fashion-MNIST": (fashion_mnist, 5),
        "KJV verses x words": (term_document, 5),
        "ECG windows": (ecg_trajectory, 5),
    }
    for name, (make, k) in sources.items():
        A = make()
        start = time.perf_counter()
        s, V = exact_right(A, k + 1)
        seconds = time.perf_counter() - start
        kind = f"sparse, {A.nnz / A.shape[0]:.0f} a row" if sp.issparse(A) else str(A.dtype)
        values = " ".join(f"{v:.4g}" for v in s)
        print(f"\n{name}: {A.shape[0]} x {A.shape[1]}, {kind}; exact in {seconds:.2f} s: {values}", flush=True)

        def decompose(tol, method, A=A, k=k):
            return svd(A, k, tol, sketch_method=method, left=False)

        for tol in (0.2, 0.05):
            show(f"svd(rank={k}, tol={tol})", *in_a_process(decompose, tol, "auto"), s[:k], V[:, :k])
        show(f"svd(rank={k}, tol=0.2, length)", *in_a_process(decompose, 0.2, "length"), s[:k], V[:, :k])
        r = sketched_svd(A, k, 200 + 10 * k, "countsketch", refine=4 * k)
        residual = certify(A, r.U, r.s, r.Vt).residual
        print(
            f"refined sketch of {200 + 10 * k} rows: right {sines(V[:, :k], r.Vt).max():.2g}, values "
            f"{np.abs(r.s - s[:k]).max():.2g}, certified to {residual.max():.2g}",
            flush=True,
        )


def peers(n, d, k, repeats, decay, dtype) -> None:
    import dask
    import dask.array as da
    import torch
    from sklearn.utils.extmath import randomized_svd

    A = polynomial(n, d, dtype, decay=decay)
    _, V = exact_right(A, k)
    cases = {}
    for q in (0, 2, 4):
        cases[f"sklearn randomized_svd, n_iter={q}"] = lambda q=q: randomized_svd(A, k, n_iter=q, random_state=0)
    T = torch.from_numpy(A)
    for q in (0, 2):
        cases[f"torch.svd_lowrank, niter={q}"] = lambda q=q: [
            x.numpy() if i < 2 else x.numpy().T for i, x in enumerate(torch.svd_lowrank(T, k + 10, niter=q))
        ]
    D = da.from_array(A, chunks=(max(1, n // 8), d))
    for q in (0, 2):
        cases[f"dask svd_compressed, n_power_iter={q}"] = lambda q=q: dask.compute(
            *da.linalg.svd_compressed(D, k, n_power_iter=q, seed=0)
        )
    try:
        import fbpca

        def by_fbpca(q):
            np.random.seed(0)  # noqa: NPY002
            return fbpca.pca(A, k, raw=True, n_iter=q)

        cases["fbpca.pca, n_iter=0"], cases["fbpca.pca, n_iter=2"] = lambda: by_fbpca(0), lambda: by_fbpca(2)
    except ImportError:
        print("fbpca is not installed")

    def ours(tol, source):
        r = svd(source, k, tol)
        return r.U, r.s, r.Vt

    def plain(source):
        r = sketched_svd(source, k, 20 * k, "countsketch")
        return r.U, r.s, r.Vt

    cases[f"gyrostat sketched_svd, {20 * k} rows"] = lambda: plain(A)
    cases[f"gyrostat sketched_svd, {20 * k} rows, dask"] = lambda: plain(D)
    for tol in (0.5, 0.2, 0.05, 1e-2, 1e-3, 1e-4, 1e-6):
        cases[f"gyrostat svd, tol={tol:g}"] = lambda tol=tol: ours(tol, A)
        cases[f"gyrostat svd, tol={tol:g}, dask"] = lambda tol=tol: ours(tol, D)
    seconds, errors = {name: [] for name in cases}, {}
    for _ in range(repeats):
        for name, case in cases.items():
            start = time.perf_counter()
            Vt = case()[2][:k]
            seconds[name].append(time.perf_counter() - start)
            errors[name] = float(sines(V, Vt).max())
    print(f"{n} x {d} {A.dtype}, s_j = j^-{decay:g}, k = {k}; median of {repeats}")
    for name in cases:
        print(f"{name:38s} {statistics.median(seconds[name]):7.3f} s   right error {errors[name]:.1e}")
    print("\nratio of times, peer / ours with an error no larger:")
    for name in cases:
        if not name.startswith("gyrostat"):
            good = [
                o for o in cases if o.startswith("gyrostat") and errors[o] <= max(errors[name], ROUNDING[A.dtype.name])
            ]
            good = [o for o in good if ("dask" in o) == name.startswith("dask")]
            if good:
                best = min(good, key=lambda o: statistics.median(seconds[o]))
                ratio = statistics.median(seconds[name]) / statistics.median(seconds[best])
                print(f"{name:38s} {ratio:5.1f}   ({best})")


def cost(widths, k, t, picture) -> None:
    """Times of one process, best of fifteen: reading A, the sketch, sketch and solve, the error bars.

    The bound is the faster of two passes that only read, numpy's dot product and the kernel's row norms; in two threads the
    latter.
    """
    pool = ThreadPoolExecutor(2)
    print(f"sketch of {t} rows; times in ms; BLAS has one thread")
    print(
        f"{'n':>7} {'d':>4} {'k':>3} {'dtype':>7}  {'dot':>6} {'read':>6} {'sketch':>6} {'of dot':>6} {'of bound':>8}"
        f"  {'read, 2':>7} {'sketch, 2':>9} "
        f"{'of bound':>8}  {'and solve':>9} {'and U':>6} {'bars':>5}  {'of solve':>8} {'of all':>6}"
    )
    sizes = [(n, d, k, np.float64) for d in widths for n in (25_000, 50_000, 100_000, 200_000, 400_000)]
    sizes += [(100_000, 100, 4 * k, np.float64), (100_000, 300, 4 * k, np.float64), (100_000, 784, 4 * k, np.float64)]
    sizes += [(200_000, 300, k, np.float32), (200_000, 784, k, np.float32)]
    lines = {}
    for n, d, components, dtype in sizes:
        if n * d > 200_000_000:
            continue
        m = passes(polynomial(n, d, dtype), components, t, pool)
        one = min(m["dot"], m["norms"])
        print(
            f"{n:7d} {d:4d} {components:3d} {np.dtype(dtype).name:>7}  {m['dot']:6.2f} {one:6.2f} {m['sketch']:6.2f} "
            f"{m['dot'] / m['sketch']:6.0%} {one / m['sketch']:8.0%}  {m['norms 2']:7.2f} "
            f"{m['sketch 2']:9.2f} {m['norms 2'] / m['sketch 2']:8.0%}  {m['solve']:9.2f} {m['whole']:6.2f} "
            f"{m['bars']:5.2f}  {m['bars'] / m['solve']:8.1%} {m['bars'] / m['whole']:6.1%}",
            flush=True,
        )
        if components == k and dtype == np.float64:
            lines.setdefault(d, []).append((n, m["whole"], m["bars"]))
    if picture:
        draw(lines, picture)


def passes(A, k, t, pool) -> dict[str, float]:
    """Milliseconds, best of fifteen."""
    n = len(A)
    flat, halves = A.reshape(-1), (A[: n // 2], A[n // 2 :])
    found = []

    def sketched(threads):
        rows = as_rows(A)[0]
        rows.threads = threads
        sketch(rows, t, method="countsketch")

    cases = {
        "dot": lambda: flat @ flat,
        "norms": lambda: row_energy(A),
        "sketch": lambda: sketched(1),
        "norms 2": lambda: list(pool.map(row_energy, halves)),
        "sketch 2": lambda: sketched(2),
        "whole": lambda: sketched_svd(A, k, t, "countsketch"),
        "solve": lambda: found.append(sketched_svd(A, k, t, "countsketch", left=False)),
        # of the sketch that has just been solved, as svd asks for them
        "bars": lambda: bootstrap_error(found.pop(), quiet=True),
    }
    times = {name: [] for name in cases}
    for _ in range(15):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * min(v) for name, v in times.items()}


def products(n, widths, columns) -> None:
    """Gflop/s of A'(A V), best of five: the kernel in one thread, and numpy's two products."""
    for d in widths:
        A = polynomial(n, d)
        for k in columns:
            V = np.random.default_rng(0).standard_normal((d, k))
            kernel = best(lambda A=A, V=V: native.normal(A, V, native.normal_sums(*V.shape), 0, 1))
            blas = best(lambda A=A, V=V: A.T @ (A @ V))
            work = 4e-9 * n * d * k
            print(
                f"{n} x {d}, {k:2d} columns: kernel {work / kernel:5.1f}, numpy {work / blas:5.1f} Gflop/s", flush=True
            )


def best(case) -> float:
    """Seconds, the least of five."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        case()
        times.append(time.perf_counter() - start)
    return min(times)


def draw(lines, picture) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for i, (d, found) in enumerate(lines.items()):
        n, whole, bars = map(np.array, zip(*found))
        slope, constant = np.polyfit(n, whole, 1, w=1 / whole)
        label = f"{d} columns: {constant:.0f} + {1e5 * slope:.0f} ms per 100,000 rows"
        left.plot(n / 1000, whole, "o", color=f"C{i}", markersize=4, label=label)
        left.plot([0, n[-1] / 1000], [constant, constant + slope * n[-1]], "-", color=f"C{i}", linewidth=1)
        left.plot(n / 1000, bars, ":", color=f"C{i}")
        right.plot(n / 1000, 100 * bars / whole, "o-", color=f"C{i}", markersize=4)
    left.set(
        xlabel="thousand rows",
        ylabel="ms",
        title="sketch, solve, U (error bars dotted)",
        xlim=(0, None),
        ylim=(0, None),
    )
    figure.legend(loc="outside lower center", ncols=3, fontsize=7)
    right.axhline(10, color="0.6", linewidth=1)
    right.set(xlabel="thousand rows", ylabel="%", title="error bars, share of the time", xlim=(0, None), ylim=(0, None))
    figure.savefig(picture, dpi=100)


def memory(folder, limit_mib) -> None:
    n, d, k = limit_mib * 2 * 1024, 256, 5  # float32: twice the limit
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "large.npy"
        out = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
        for a in range(0, n, 50_000):
            out[a : a + 50_000] = polynomial(min(50_000, n - a), d, np.float32, seed=a)
        del out
        s, V = exact_right(NpyFile(path), k)
        print(f"{path.stat().st_size >> 20} MiB in the file, {limit_mib} MiB of address space allowed")

        def limited(task):
            def run():
                resource.setrlimit(resource.RLIMIT_AS, (limit_mib << 20, limit_mib << 20))
                return task()

            return run

        def by_dask():
            import dask
            import dask.array as da

            with dask.config.set(scheduler="threads", num_workers=2):
                return svd(da.from_array(NpyFile(path), chunks=(20_000, d)), k, 0.1, left=False)

        for name, task in {
            "numpy.load": lambda: str(np.load(path)[:1].shape),
            "numpy.load(mmap_mode='r')": lambda: str(np.load(path, mmap_mode="r")[:1].shape),
            "svd('large.npy')": lambda: svd(path, k, 0.1, left=False),
            "svd('large.npy'), with U": lambda: svd(path, k, 0.1),
            "svd(dask array of it), 2 threads": by_dask,
            "svd('large.npy'), sketch too large": lambda: sketched_svd(path, k, 400_000),
        }.items():
            show(name, *in_a_process(limited(task)), s, V)


def blas() -> str:
    """numpy's BLAS, its kernel and its threads: much of the time of every method here."""
    found = [i for i in threadpoolctl.threadpool_info() if i["user_api"] == "blas" and "numpy" in i["filepath"]]
    return ", ".join(
        f"{i['internal_api']} {i['version']}, {i.get('architecture')}, {i['num_threads']} threads" for i in found
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["real", "peers", "cost", "products", "memory"])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=300)
    parser.add_argument("--components", type=int, default=5)
    parser.add_argument("--decay", type=float, default=1.0, help="singular values j^-decay, for `peers`")
    parser.add_argument("--dtype", choices=["float64", "float32"], default="float64", help="for `peers`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int, default=1024, help="MiB of address space for `memory`")
    parser.add_argument("--picture", help="where `cost` draws its times, a .png")
    parser.add_argument("--folder", help="where `memory` puts its file")
    options = parser.parse_args()
    print(f"numpy {np.__version__}, {blas()}")
    if options.what == "real":
        real()
    elif options.what == "peers":
        peers(options.rows, options.columns, options.components, options.repeats, options.decay, options.dtype)
    elif options.what == "cost":
        cost([100, 300, 784], options.components, 500, options.picture)
    elif options.what == "products":
        products(options.rows, (200, 784), (8, 16, 24))
    else:
        memory(options.folder, options.limit)


if __name__ == "__main__":
    main()
