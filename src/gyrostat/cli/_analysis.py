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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: config.json or result.json is missing or damaged") from error
    # a run keeps the data's name and hash, not its options: the defaults are tried, the hash decides
    try:
        opened = open_data(data if data is not None else name.split()[0], seed=seed)
    except DataError as error:
        if data is not None:
            raise
        raise ArgumentError(
            f"the data of the run in {folder} ({name}) cannot be found; name them with --data"
        ) from error
    if opened.content_hash != digest:
        raise ArgumentError(
            f"--data: {data or name} does not give the data that the run in {folder} was trained on; "
            "name the same data again, options included"
        )
    return {"model": model, "data": opened, "config": config, "history": history, "result": result}


def part(data: Any, name: str, count: int) -> tuple[Any, Any]:
    """Up to ``count`` sequences of one part, of one length (the commonest), as tensors."""
    import numpy as np
    import torch

    rows = data.split[name]
    length = data.x.shape[1]
    if data.lengths is not None:
        values, counts = np.unique(data.lengths[rows], return_counts=True)
        length = int(values[counts.argmax()])
        rows = rows[data.lengths[rows] == length]
    rows = rows[:count]
    y = data.y[rows][:, :length] if data.per_step else data.y[rows]
    return torch.from_numpy(data.x[rows][:, :length].copy()), torch.from_numpy(y.copy())


def measure(run: dict[str, Any], *, sequences: int, repeats: int, seed: int, tell: Any) -> dict[str, Any]:
    """All results, as far as they exist for this model; ``tell`` hears what is being done."""
    import torch
    import torch.nn.functional as F

    from ..analysis.bounds import lem_bounds
    from ..analysis.hessian import hessian_spectrum
    from ..analysis.lyapunov import input_jacobian, lyapunov_exponents, state_jacobians
    from ..perturb.curves import robustness_curve
    from ..recurrent.layer import Recurrent
    from ..recurrent.lipschitz import LipschitzRNNMath, certificates
    from ..train.compare import matrices_of

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
    x_test, y_test = part(data, "test", sequences)
    if cells and not layer.bidirectional:
        tell("Lyapunov exponents")
        few = x_test[:8].double()
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
        few = x_test[:16]
        jacobian = input_jacobian(model, few)
        found["condition"] = {
            "median": float(jacobian.condition.median()),
            "largest_gain": float(jacobian.singular_values[:, 0].median()),
        }
        by_step = jacobian.matrix.unflatten(2, few.shape[1:])  # (B, K, T, F)
        found["sensitivity"] = by_step.square().sum((1, 3)).sqrt().median(0).values.tolist()
    tell("Hessian")
    x, y = part(data, "train", sequences)
    loss = F.mse_loss if not data.labels else lambda out, y: F.cross_entropy(out.flatten(0, -2), y.flatten())
    found["hessian"] = hessian_spectrum(
        model, loss, (x, y), 2, density=True, density_steps=30, density_probes=2, probes=20, tol=1e-3,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    if data.task == "classify":
        found["curves"] = []
        low, high = float(data.x.min()), float(data.x.max())
        for name, levels in LEVELS.items():
            tell(f"robustness: {name}")
            curve = robustness_curve(model, (x_test, y_test), name, levels, repeats, bounds=(low, high), seed=seed)
            found["curves"].append(curve)
    if cells and cells[0].hidden_size == 2 and layer.num_layers == 1 and len(cells[0].states) == 1:
        tell("phase portrait")
        found["portrait"] = portrait(layer, x_test.mean((0, 1)))
    return found


def portrait(layer: Any, x: Any) -> dict[str, Any]:
    """Displacement of one step on a grid of two-dimensional states, and where each state ends, at a constant input."""
    import torch

    axis = torch.linspace(-3, 3, 41)
    grid = torch.cartesian_prod(axis, axis)  # (G, 2)
    layer = layer.eval()
    with torch.no_grad():
        inputs = x.expand(len(grid), -1)
        move = layer.step(inputs, grid[None].contiguous())[1][0] - grid
        h = grid[None].contiguous()
        for _ in range(2000):
            h = layer.step(inputs, h)[1]
    return {"axis": axis, "move": move.view(41, 41, 2), "end": h[0].view(41, 41, 2)}


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """The result as JSON."""
    from .._results import to_plain

    kept = {k: to_plain(v) for k, v in found.items() if k not in ("matrices", "portrait")}
    import torch

    for name, M in found["matrices"].items():
        kept[f"max_re_{name}"] = float(torch.linalg.eigvals(M.detach().double()).real.max())
    return kept
