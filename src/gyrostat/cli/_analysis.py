"""What ``gyrostat analyse`` measures on a trained model; every number says whether it is a bound or an estimate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .._errors import ArgumentError, CheckpointError, DataError

LEVELS = {
    "white": (0.0, 0.1, 0.2, 0.3),
    "multiplicative": (0.0, 0.2, 0.4, 0.6),
    "salt_pepper": (0.0, 0.03, 0.05, 0.1),
    "fgsm": (0.0, 0.02, 0.05, 0.1),
    "pgd_linf": (0.0, 0.02, 0.05, 0.1),
}


def open_run(folder: Path, data: str | None) -> dict[str, Any]:
    """Model, data, configuration and history of a finished run directory."""
    import json

    from ..data.catalogue import open_data
    from ..train.loop import load_model

    if not (folder / "model.safetensors").is_file():
        raise CheckpointError(f"{folder}: holds no finished run (no model.safetensors); make one with  gyrostat train")
    model, _ = load_model(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        result = json.loads((folder / "result.json").read_text())
        name, digest, history = config["data"], config["data_hash"], result["history"]
        seed = int(config["train"]["seed"])
        source = str(config.get("source") or name.split()[0])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: config.json or result.json is missing or damaged") from error
    try:
        opened = open_data(data if data is not None else source, seed=seed)
    except DataError as error:
        if data is not None:
            raise
        raise ArgumentError(
            f"the data of the run in {folder} ({source}) cannot be found; name them with --data"
        ) from error
    if opened.content_hash != digest:
        raise ArgumentError(
            f"--data: {data or source} does not give the data that the run in {folder} was trained on; "
            "name the same data again, options included"
        )
    return {"model": model, "data": opened, "config": config, "history": history, "result": result}


def part(data: Any, name: str, count: int, *, alike: bool = False) -> tuple[Any, Any, Any]:
    """Up to ``count`` sequences of one part as tensors: inputs, answers, and lengths where they differ.

    ``alike`` takes those nearest the median length, for what is measured step by step.
    """
    import numpy as np
    import torch

    rows, length = data.split[name], data.x.shape[1]
    if data.lengths is not None:
        if alike:
            away = np.abs(data.lengths[rows] - np.median(data.lengths[rows]))
            rows = rows[np.argsort(away, kind="stable")]
        length = int(data.lengths[rows[:count]].max())
    rows = rows[:count]
    lengths = None if data.lengths is None else torch.from_numpy(data.lengths[rows].astype("int64"))
    y = data.y[rows][:, :length] if data.per_step else data.y[rows]
    return torch.from_numpy(data.x[rows][:, :length].copy()), torch.from_numpy(y.copy()), lengths


def with_lengths(model: Any, lengths: Any) -> Any:
    """The model of one padded batch as a model of its inputs alone."""
    from torch import nn

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any) -> Any:
            return self.model(x, lengths)

    return model if lengths is None else Padded().train(model.training)


def measure(run: dict[str, Any], *, sequences: int, repeats: int, seed: int, tell: Any) -> dict[str, Any]:
    """All results, as far as they exist for this model; ``tell`` hears what is being done."""
    import torch

    from ..analysis.bounds import lem_bounds
    from ..analysis.hessian import hessian_spectrum
    from ..analysis.lyapunov import input_jacobian, lyapunov_exponents, state_jacobians
    from ..perturb.curves import robustness_curve
    from ..recurrent.layer import Recurrent
    from ..recurrent.lipschitz import LipschitzRNNMath, certificates
    from ..recurrent.orthogonal import FlowCell
    from ..train.compare import matrices_of
    from ..train.task import Task

    model, data = run["model"], run["data"]
    layer = model.layer
    found: dict[str, Any] = {"matrices": matrices_of(model)}
    tell("certificates")
    cells = layer.cells if isinstance(layer, Recurrent) else []
    if cells and all(isinstance(c, LipschitzRNNMath) and not c.gated for c in cells):
        found["certificates"] = certificates(layer)
    if cells and cells[0].name == "lem" and cells[0].dt <= 1:
        found["lem_bounds"] = {
            f"l{k}": lem_bounds(p["weight_hh"], p["weight_zy"], cells[k].dt)
            for k, p in ((k, layer.parameters_of(k)) for k in range(layer.num_layers))
        }
    flows = [(k, c) for k, c in enumerate(cells) if isinstance(c, FlowCell)]
    if flows:
        found["gain"] = {f"l{k}": [float(v.detach()) for v in c.gain(layer.parameters_of(k))] for k, c in flows}
    x_test, y_test, test_lengths = part(data, "test", sequences)
    if cells and not layer.bidirectional:
        tell("Lyapunov exponents")
        few, _, few_lengths = part(data, "test", 8, alike=True)
        # all of one length: what is beyond the end of the shortest is left out
        few = few[:, : int(few_lengths.min()) if few_lengths is not None else None].double()
        found["steps_seen"] = few.shape[1]
        model.double()
        J = state_jacobians(layer, few)
        step = None if getattr(cells[0], "learn_dt", False) or not cells[0].time_step else float(cells[0].dt)
        found["exponents"] = lyapunov_exponents(J, dt=step)
        found["per_time"] = step is not None
        growth, product = [], torch.eye(J.shape[-1], dtype=J.dtype).expand(J.shape[1:])
        for t in range(len(J)):
            product = J[t] @ product
            s = torch.linalg.svdvals(product)
            growth.append((float(s[:, 0].median()), float((s[:, 0] / s[:, -1]).median())))
        found["growth"] = growth
        model.float()
    if not data.per_step:
        tell("input Jacobians")
        few, _, few_lengths = part(data, "test", 16, alike=True)
        jacobian = input_jacobian(with_lengths(model, few_lengths), few)
        values = jacobian.singular_values
        # more outputs than the head has inputs cannot all move on their own
        rank = min(values.shape[1], model.head.in_features)
        found["condition"] = {
            "median": float((values[:, 0] / values[:, rank - 1]).median()),
            "rank": rank,
            "largest_gain": float(values[:, 0].median()),
        }
        by_step = jacobian.matrix.unflatten(2, few.shape[1:])  # (B, K, T, F)
        sizes = by_step.square().sum((1, 3)).sqrt()  # (B, T)
        if few_lengths is not None:
            sizes[torch.arange(sizes.shape[1]) >= few_lengths[:, None]] = torch.nan
        found["sensitivity"] = sizes.nanmedian(0).values.tolist()
    tell("Hessian")
    x, y, lengths = part(data, "train", sequences)
    task = Task(data.task)
    found["hessian"] = hessian_spectrum(
        with_lengths(model, lengths), lambda out, y: task.loss(out, y, lengths), (x, y), 2, density=True,
        density_steps=30, density_probes=2, probes=20, tol=1e-3,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    if data.task == "classify":
        found["curves"] = []
        low, high = float(data.x.min()), float(data.x.max())
        for name, levels in LEVELS.items():
            tell(f"robustness: {name}")
            curve = robustness_curve(
                with_lengths(model, test_lengths), (x_test, y_test), name, levels, repeats,
                batch_size=256 if test_lengths is None else len(x_test), bounds=(low, high), seed=seed,
            )  # fmt: skip
            found["curves"].append(curve)
    if cells and cells[0].hidden_size == 2 and layer.num_layers == 1 and not layer.bidirectional:
        tell("phase portrait")
        inside = x_test if test_lengths is None else x_test[torch.arange(x_test.shape[1]) < test_lengths[:, None]]
        found["portrait"] = portrait(layer, inside.flatten(0, -2).mean(0))
    return found


def portrait(layer: Any, x: Any) -> dict[str, Any]:
    """Displacement of one step on a grid of two-dimensional states, and where each state ends, at a constant input.

    Further states of a cell, such as the z of LEM, start at zero.
    """
    import torch

    axis = torch.linspace(-3, 3, 41)
    grid = torch.cartesian_prod(axis, axis)  # (G, 2)
    names = layer.cells[0].states
    with torch.no_grad():
        inputs = x.expand(len(grid), -1)
        start = (grid[None].contiguous(), *[torch.zeros(1, len(grid), 2) for _ in names[1:]])
        h = start if len(names) > 1 else start[0]
        output, h = layer.step(inputs, h)
        move = output - grid
        for _ in range(1999):
            output, h = layer.step(inputs, h)
    return {"axis": axis, "move": move.view(41, 41, 2), "end": output.view(41, 41, 2), "states": names}


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """The result as JSON."""
    from .._results import to_plain

    kept = {k: to_plain(v) for k, v in found.items() if k not in ("matrices", "portrait")}
    import torch

    for name, M in found["matrices"].items():
        kept[f"max_re_{name}"] = float(torch.linalg.eigvals(M.detach().double()).real.max())
    return kept
