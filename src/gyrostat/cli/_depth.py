"""What the verbs for networks of continuous depth share: their data, their lists, their measurements."""

from __future__ import annotations

from typing import Any


def epochs(text: str, name: str) -> tuple[int, ...]:
    """A comma-separated list of epochs."""
    from .._errors import ArgumentError

    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise ArgumentError(f"{name} must be epochs with commas between, such as 10,20,30, got {text!r}") from None


def solver_and_steps(word: str | None) -> tuple[str | None, int | None]:
    """``euler:4`` as a scheme and a number of steps."""
    from .._errors import ArgumentError

    if word is None:
        return None, None
    name, _, steps = word.partition(":")
    if steps and not (steps.isdigit() and int(steps)):
        raise ArgumentError(f"--solver must look like euler:4, got {word!r}")
    return name or None, int(steps) if steps else None


def test_part(spec: str, facts: dict[str, Any], limit: int, seed: int) -> tuple[Any, Any]:
    """Inputs and targets of the first test examples, of a set that the network of a run can read."""
    from .._errors import ArgumentError
    from ..train.levels import as_examples, open_depth_data

    if not spec:
        raise ArgumentError("--data: the run does not say what it was trained on; name the data set")
    import torch

    data = as_examples(open_depth_data(spec, seed))
    shape, classes, images = facts.get("shape"), facts["net"]["outputs"], facts["net"]["kind"] == "image"
    if images and shape and list(data.x.shape[1:]) != shape:
        raise ArgumentError(
            f"--data {spec}: has examples of {tuple(data.x.shape[1:])}, the run was trained on {tuple(shape)}; "
            "name the data set with the same layout"
        )
    if images != (data.task == "classify") or int(data.y.max()) >= classes:
        raise ArgumentError(f"--data {spec}: does not fit a network of {classes} classes")
    rows = data.split["test"][:limit]
    return torch.from_numpy(data.x[rows]), torch.from_numpy(data.y[rows])


def measure(model: Any, x: Any, y: Any) -> dict[str, Any]:
    """Accuracy, parameters and unit calls."""
    from ..data.batches import Batch
    from ..depth.change import blocks
    from ..train.task import Task

    task = Task("classify" if y.ndim == 1 else "tag")
    batches = [Batch(a, b, None) for a, b in zip(x.split(256), y.split(256))]
    return {
        "accuracy": task.evaluate(model, batches)["score"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "evaluations": sum(b.n_evaluations for b in blocks(model).values()),
    }


def latencies(models: list[Any], x: Any, repeats: int = 9) -> list[float]:
    """Median milliseconds for a batch of 32, the models taking turns so that a busy machine is unfair to none."""
    import statistics
    import time

    import torch

    times: list[list[float]] = [[] for _ in models]
    with torch.no_grad():
        for _ in range(repeats):
            for model, mine in zip(models, times):
                started = time.perf_counter()
                model(x[:32])
                mine.append(time.perf_counter() - started)
    return [1e3 * statistics.median(t[1:]) for t in times]


def example_input(facts: dict[str, Any], image_size: int | None) -> Any:
    """Two examples of what the network of a run takes."""
    import torch

    net = facts["net"]
    if net["kind"] != "image":
        return torch.ones(2, min(net["max_length"], 16), dtype=torch.long)
    size = image_size
    if size is None:
        size = 8 if str(facts.get("source", "")).startswith("digits") else 28
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, net["inputs"], size, size, generator=generator)
