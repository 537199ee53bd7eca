"""Train several models on one data set with several seeds, measure how they answer to noise, and say which to take."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from .._errors import ArgumentError
from ..data.sequences import SequenceData

WHITE = (0.1, 0.2, 0.3)
SALT_PEPPER = (0.03, 0.05, 0.1)
DRAWS = 5


JobT = TypeVar("JobT")


@dataclass(frozen=True)
class Job:
    """One model with one seed."""

    data: str
    data_options: dict[str, Any]
    model: dict[str, Any]
    train: dict[str, Any]
    folder: str

    @property
    def label(self) -> str:
        """What progress calls it."""
        return f"{self.model['model']} seed {self.train['seed']}"


def matched_hidden(model: str, data: SequenceData, target: int, **sizes: Any) -> int:
    """The hidden size whose parameter count is nearest to ``target``."""
    from .model import ModelConfig, parameter_count

    def count(hidden: int) -> int:
        return parameter_count(ModelConfig.for_data(model, data, hidden_size=hidden, **sizes))

    low, high = 1, 2
    while count(high) < target and high < 65536:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < target else (low, middle)
    return min((low, high), key=lambda h: abs(count(h) - target))


def spectra(model: Any) -> dict[str, Any]:
    """Largest real part of the eigenvalues of A and W, where the first layer has such matrices."""
    found = matrices_of(model)
    import torch

    return {f"max_re_{k}": float(torch.linalg.eigvals(m).real.max()) for k, m in found.items()}


def matrices_of(model: Any) -> dict[str, Any]:
    """A and W of the first layer, as far as its cell has them."""
    layer = getattr(model, "layer", model)
    cell = layer.cells[0] if hasattr(layer, "cells") else None
    if cell is None:
        return {}
    parameters = {k: p.detach() for k, p in layer.parameters_of(0).items()}
    if hasattr(cell, "matrices"):
        A, W = cell.matrices(parameters)
        return {"A": A, "W": W}
    return {"W": cell.matrix(parameters)} if hasattr(cell, "matrix") else {}


def noisy_score(model: Any, data: SequenceData, law: str, level: float, seed: int) -> tuple[float, float]:
    """Mean test score over five draws of white noise or salt-and-pepper, and its spread; common random numbers."""
    from .._rng import torch_stream
    from ..data.batches import Batches
    from ..numerics.noise import salt_pepper, white
    from .task import Task

    batches, task = Batches(data, "test", 512), Task(data.task)
    bounds = {"low": float(data.x.min()), "high": float(data.x.max())} if law == "salt_pepper" else {}
    perturb = {"white": white, "salt_pepper": salt_pepper}[law]
    found = []
    for draw in range(DRAWS):
        g = torch_stream(seed, "noise", draw)
        noisy = task.evaluate(model, batches.epoch(), lambda x, g=g: perturb(x, level, generator=g, **bounds))
        found.append(noisy["score"])
    return statistics.mean(found), statistics.pstdev(found)


def robustness(model: Any, data: SequenceData, seed: int) -> dict[str, dict[str, list[float]]]:
    """Mean test score and its spread under every level of both laws."""
    levels = {"white": WHITE, "salt_pepper": SALT_PEPPER}
    return {
        law: {str(level): list(noisy_score(model, data, law, level, seed)) for level in own}
        for law, own in levels.items()
    }


def work(job: Job) -> dict[str, Any]:
    """Do one job, or read its result if it is finished; runs in a process of its own."""
    from ..data.catalogue import open_data
    from .config import TrainConfig
    from .loop import load_model, train
    from .model import ModelConfig

    folder = Path(job.folder)
    summary = folder / "summary.json"
    if summary.is_file():
        return json.loads(summary.read_text())
    data = open_data(job.data, **job.data_options)
    config = TrainConfig(**job.train)
    with one_thread():
        if not (folder / "result.json").is_file():
            train(data, ModelConfig(**job.model), config, folder, record=spectra, about={"source": job.data})
        model, _ = load_model(folder)
        result = json.loads((folder / "result.json").read_text())
        eigenvalues = {k: _eigenvalues(m) for k, m in matrices_of(model).items()}
        result |= {"robustness": robustness(model, data, config.seed), "eigenvalues": eigenvalues}
    from ..report.page import write_atomically

    write_atomically(summary, json.dumps(result).encode())
    return result


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Settings under which one of several runs is done; the caller's come back."""
    import torch

    threads, kept = torch.get_num_threads(), bool(torch.tensor([1e-40]) * 0.5 > 0)
    torch.set_num_threads(1)
    # vanishing gradients end in denormal numbers, which are many times slower and mean nothing here
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(not kept)


def _eigenvalues(matrix: Any) -> list[list[float]]:
    import torch

    values = torch.linalg.eigvals(matrix)
    return [[float(v.real), float(v.imag)] for v in values]


def run_jobs(
    jobs: Sequence[JobT],
    workers: int,
    on_done: Callable[[JobT, dict[str, Any]], None],
    work: Callable[[JobT], dict[str, Any]],
) -> list[dict[str, Any]]:
    """All jobs, ``workers`` at a time in processes of one thread each; the results come in the order of the jobs."""
    if workers <= 1:
        results = []
        for job in jobs:
            results.append(work(job))
            on_done(job, results[-1])
        return results
    context = multiprocessing.get_context("spawn")
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context)
    try:
        futures = {pool.submit(work, job): job for job in jobs}
        for future in concurrent.futures.as_completed(futures):
            on_done(futures[future], future.result())
        return [f.result() for f in futures]
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def make_jobs(
    spec: str,
    data: SequenceData,
    models: Sequence[str],
    seeds: int,
    folder: Path,
    *,
    train: dict[str, Any],
    hidden_size: int = 64,
    num_layers: int = 1,
    same: str = "hidden-size",
    data_options: dict[str, Any] | None = None,
) -> list[Job]:
    """One job per model and seed.

    Args:
        spec: What ``open_data`` takes.
        data: The opened data.
        models: Names of models.
        seeds: How many seeds, from 0.
        folder: Where the runs go.
        train: Settings of :class:`gyrostat.train.config.TrainConfig`.
        hidden_size: Hidden size of every model, or of the first one when parameters are matched.
        num_layers: Stacked layers.
        same: ``"hidden-size"``, or ``"parameters"``: the parameter count of the first model.
        data_options: Options for ``open_data``.
    """
    from .model import ModelConfig, model_names, parameter_count

    known = model_names()
    for name in models:
        if name not in known:
            from .._checks import nearest

            raise ArgumentError(
                f"--models: no model is called {name!r}{nearest(name, known)}; there are {', '.join(known)}"
            )
    if len(set(models)) != len(models):
        raise ArgumentError("--models: a model is named twice")
    jobs = []
    target = 0
    for name in models:
        config = ModelConfig.for_data(name, data, hidden_size=hidden_size, num_layers=num_layers)
        target = target or parameter_count(config)
        if same == "parameters":
            config = replace(config, hidden_size=matched_hidden(name, data, target, num_layers=num_layers))
        for seed in range(seeds):
            place = folder / "runs" / f"{name}-seed{seed}"
            jobs.append(Job(spec, data_options or {}, config.to_dict(), {**train, "seed": seed}, str(place)))
    return jobs


def summarise(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per model, in the order given: means and spreads over seeds."""
    rows = []
    names = list(dict.fromkeys(r["model"]["model"] for r in results))
    for name in names:
        own = [r for r in results if r["model"]["model"] == name]
        scores = [r["test_score"] for r in own]
        row: dict[str, Any] = {
            "model": name,
            "seeds": len(own),
            "hidden_size": own[0]["model"]["hidden_size"],
            "parameters": own[0]["parameters"],
            "score": statistics.mean(scores),
            "spread": statistics.stdev(scores) if len(scores) > 1 else None,
            "seconds_per_epoch": statistics.median(r["seconds_per_epoch"] for r in own),
        }
        for law in ("white", "salt_pepper"):
            row[law] = {
                level: statistics.mean(r["robustness"][law][level][0] for r in own)
                for level in own[0]["robustness"][law]
            }
        rows.append(row)
    return rows


def recommend(rows: Sequence[dict[str, Any]], task: str) -> tuple[str, str]:
    """Which model to take, and why, in words; says so where the spreads overlap."""
    from .task import LABELS

    sign = 1 if task in LABELS else -1
    level = str(WHITE[1])

    def noisy(row: dict[str, Any]) -> float:
        return row["white"][level]

    best = max(rows, key=lambda r: sign * r["score"])
    tolerance = max(best["spread"] or 0.0, 0.005 if task in LABELS else 0.05 * best["score"])
    level_with = [r for r in rows if sign * (best["score"] - r["score"]) <= tolerance]
    chosen = max(level_with, key=lambda r: sign * noisy(r))
    number = f"{chosen['score']:.1%} accuracy" if task in LABELS else f"an error of {chosen['score']:.4g}"
    under = f"{noisy(chosen):.1%}" if task in LABELS else f"{noisy(chosen):.4g}"
    others = [r["model"] for r in level_with if r is not chosen]
    why = f"It reaches {number} on the test set and {under} under white noise of {level}. "
    if others:
        tied = ", ".join(others)
        why += f"{tied} {'is' if len(others) == 1 else 'are'} as accurate within the spread over seeds; noise decides. "
    else:
        why += "No other model comes within the spread over seeds. "
    steadiest = max(rows, key=lambda r: sign * noisy(r))
    if steadiest is not chosen:
        value = f"{noisy(steadiest):.1%}" if task in LABELS else f"{noisy(steadiest):.4g}"
        why += f"If your inputs are noisy, look at {steadiest['model']}, which holds {value} there. "
    if min(r["seeds"] for r in rows) < 3:
        why += "Fewer than three seeds: take the order as a hint."
    return f"Take {chosen['model']}.", why.strip()
