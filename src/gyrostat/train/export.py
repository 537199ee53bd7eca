"""Exported graphs of a network with a dynamic batch, each compared with the network before it counts."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import ArgumentError, GyrostatError, missing_extra

BATCHES = (1, 3, 8)


class ExportError(GyrostatError, RuntimeError):
    """An exported file disagrees with the network it came from."""


def export_model(model: nn.Module, example: Tensor, path: Path, *, tolerance: float = 1e-3) -> dict[str, Any]:
    """Write a network as ``.onnx`` or ``.pt2`` with a dynamic first dimension.

    Args:
        model: The network.
        example: An input of at least two examples.
        path: File to write; it appears only after its outputs agreed with the network's.
        tolerance: Largest difference of an output, relative to the largest output.

    Returns:
        File size, size of the network's weights (a solver that reads weights between nodes unrolls into more), batch
        sizes tried and largest difference.

    Raises:
        MissingExtraError: ONNX without the extra.
        ExportError: The file disagrees with the network.
    """
    if path.suffix not in (".onnx", ".pt2"):
        raise ArgumentError(f"export: path must end in .onnx or .pt2, got {path.name!r}")
    model = model.eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / path.name
        dynamic = ({0: torch.export.Dim("batch", min=1, max=65536)},)
        run = _onnx(model, example, draft, dynamic) if path.suffix == ".onnx" else _pt2(model, example, draft, dynamic)
        worst = 0.0
        for n in BATCHES:
            x = example[torch.arange(n) % len(example)]
            with torch.no_grad():
                expected = model(x)
                difference = float((run(x) - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
            worst = max(worst, difference)
        if not worst <= tolerance:
            raise ExportError(
                f"export: the file's outputs differ from the network's by {worst:.2e}, more than {tolerance:g}"
            )
        size = draft.stat().st_size
        os.replace(draft, path)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return {
        "file": str(path), "bytes": size, "weight_bytes": weights, "batches": list(BATCHES), "largest_difference": worst,
    }  # fmt: skip


def _pt2(model: nn.Module, example: Tensor, path: Path, dynamic: Any) -> Any:
    program = torch.export.export(model, (example,), dynamic_shapes=dynamic)
    torch.export.save(program, path)
    # our own file of a moment ago; archives of strangers are never loaded
    return torch.export.load(path).module()


def _strip(path: Path) -> None:
    """Drop what the exporter notes beside the graph: stack traces of this machine, several times the weights in size."""
    import onnx

    file = onnx.load(path)
    for part in (file, file.graph, *file.graph.node, *file.graph.initializer, *file.functions):
        del part.metadata_props[:]
    del file.graph.value_info[:]
    onnx.save(file, path)


def _onnx(model: nn.Module, example: Tensor, path: Path, dynamic: Any) -> Any:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  the exporter needs it
    except ImportError as error:
        raise missing_extra(error.name or "onnxruntime", "onnx", "export to ONNX") from error
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it misses torchvision, which nothing here uses
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's own deprecations are not the user's business
        torch.onnx.export(
            model, (example,), str(path), dynamo=True, dynamic_shapes=dynamic, external_data=False, verbose=False
        )
    log.setLevel(level)
    _strip(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])
