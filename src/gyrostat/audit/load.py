"""The only door for model files of strangers.

    bytes → format → static checks → (ONNX, trusted files) a process of their own | (weights) an architecture of the user's

Accepted: ONNX; safetensors or a weights-only torch checkpoint together with an architecture. Everything else is refused with
the way out, or, with ``trust``, loaded in a child process with limits (see :mod:`gyrostat.audit.worker`).
"""

from __future__ import annotations

import hashlib
import math
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import ArgumentError, ModelError, UnsafeFileError, missing_extra, printable
from .formats import sniff
from .graph import inspect_graph
from .pickles import PickleReport, walk
from .worker import Limits, Worker

MAX_PICKLE = 64 << 20
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_NUMPY_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}


_OWN_FUNCTION = "hand gyrostat.scan a function of one such input that asks the model"


@dataclass
class LoadedModel:
    """A model that can be asked, and what is known of its file.

    Attributes:
        predict: From a tensor or array ``(N, ...)`` to scores ``(N, K)``.
        format: Of the file.
        sha256: Of the file.
        input_shape: Shape of one input where the file says it, else ``None``.
        warnings: What its user should know.
    """

    predict: Any
    format: str
    sha256: str
    input_shape: tuple[int, ...] | None = None
    warnings: list[str] = field(default_factory=list)
    worker: Worker | None = None

    def close(self) -> None:
        """End the model's process, if it has one."""
        if self.worker is not None:
            self.worker.close()

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_model(
    path: str | Path,
    *,
    architecture: Callable[[], Any] | None = None,
    trust: bool = False,
    limits: Limits | None = None,
) -> LoadedModel:
    """Open a model file without executing anything it brings along.

    Args:
        path: ONNX, safetensors, or a torch checkpoint of weights.
        architecture: Builds the ``nn.Module`` that safetensors or a checkpoint belongs to; your own code.
        trust: Load formats that execute code, in a child process with limits.
        limits: Of that process.

    Raises:
        UnsafeFileError: The file could execute code, is damaged, or is of no supported format; the message says the way out.
        ArgumentError: Weights without an architecture, or weights that do not fit it.
        WorkerError: The model's process died or ran into a limit.

    Example:
        >>> import pathlib, tempfile, torch
        >>> from safetensors.torch import save_file
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> save_file(torch.nn.Linear(4, 3).state_dict(), folder / "m.safetensors")
        >>> load_model(folder / "m.safetensors", architecture=lambda: torch.nn.Linear(4, 3)).format
        'safetensors'
    """
    path = Path(path)
    kind = sniff(path)
    digest = sha256_of(path)
    if kind.name == "onnx":
        graph = inspect_graph(path).graph
        return _in_worker(path, "onnx", digest, limits, [], sum(math.prod(w.dims) for w in graph.initializer))
    if kind.name == "safetensors":
        return _with_architecture(path, "safetensors", digest, architecture, _read_safetensors)
    report = pickle_report(path) if kind.name in ("torch", "pickle") else None
    if report is not None and report.safe and (kind.name == "torch" or _is_legacy(path)):
        return _with_architecture(path, "torch", digest, architecture, _read_checkpoint)
    if trust and kind.name in ("torch", "pickle", "torchscript", "pt2"):
        warning = "loaded with trust: the file ran its own code, in a process with limits that is not a sandbox"
        return _in_worker(path, kind.name, digest, limits, [warning])
    if report is not None:
        report.require_safe(path.name)
    raise UnsafeFileError(f"{path.name}: {kind.remedy}")


def pickle_report(path: str | Path) -> PickleReport:
    """What the pickle inside a checkpoint, or a bare pickle file, would call.

    Raises:
        UnsafeFileError: The archive is a bomb, holds odd names, or its pickle is too large to walk.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(MAX_PICKLE)
    if not head.startswith(b"PK"):
        # raw storages may follow the pickles of a legacy checkpoint; a single pickle longer than this breaks off
        return walk(head, pickles=None)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_archive(path, entries)
            pickles = [e for e in entries if e.filename.endswith(".pkl")]
            reports = [walk(archive.read(e), pickles=None) for e in pickles]
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, OSError, IndexError) as error:
        if isinstance(error, UnsafeFileError):
            raise
        raise UnsafeFileError(f"{path.name}: a damaged archive ({' '.join(str(error).split())[:80]})") from error
    named = tuple(dict.fromkeys(g for r in reports for g in r.globals))
    trouble = next((r.trouble for r in reports if r.trouble), "" if reports else "an archive without a pickle")
    return PickleReport(named, sum(r.calls for r in reports), not trouble, trouble)


def _is_legacy(path: Path) -> bool:
    """Whether a bare pickle is a checkpoint of torch before 1.6, which begins with a pickled magic number."""
    with path.open("rb") as file:
        return file.read(len(_LEGACY)) == _LEGACY


def sha256_of(path: Path) -> str:
    """Digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _check_archive(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    size, names = path.stat().st_size, [e.filename for e in entries]
    if len(entries) > 100_000 or len(set(names)) != len(names):
        raise UnsafeFileError(f"{path.name}: the archive holds a name twice, or too many; re-save the checkpoint")
    if any(n.startswith(("/", "\\")) or ".." in Path(n).parts or "\0" in n for n in names):
        raise UnsafeFileError(f"{path.name}: the archive holds a name that leads out of it; re-save the checkpoint")
    # torch stores without compression, so a checkpoint unpacks to no more than its own size
    if sum(e.file_size for e in entries) > size or any(
        e.file_size > MAX_PICKLE for e in entries if e.filename.endswith(".pkl")
    ):
        raise UnsafeFileError(f"{path.name}: the archive unpacks to more than it is; torch's own checkpoints do not")
    if any(e.flag_bits & 1 for e in entries):
        raise UnsafeFileError(f"{path.name}: the archive is encrypted; re-save the checkpoint")


def _in_worker(
    path: Path, kind: str, digest: str, limits: Limits | None, notes: list[str], weights: int | None = None
) -> LoadedModel:
    worker = Worker(limits)
    try:
        about, _ = worker.call("load", {"path": str(path.resolve()), "kind": kind})
    except BaseException:
        worker.close()
        raise
    about = about if isinstance(about, dict) else {}
    shape, outputs = about.get("input_shape"), about.get("outputs") or []
    if len(outputs) > 1:
        names = ", ".join(printable(str(name))[:40] for name in outputs[:8])
        notes = [*notes, f"the model gives {len(outputs)} outputs ({names}); the first is taken for its scores"]

    def predict(x: Any) -> np.ndarray:
        found = worker.call("ask", {}, np.asarray(x, dtype=np.float32))[1]
        if found is None:
            raise UnsafeFileError(f"{path.name}: the model answered nothing")
        return found

    predict.weights = weights  # pyright: ignore[reportFunctionMemberAccess]
    return LoadedModel(predict, kind, digest, tuple(map(int, shape)) if shape else None, notes, worker)


def _with_architecture(
    path: Path, kind: str, digest: str, build: Any, read: Callable[[Path], dict[str, Any]]
) -> LoadedModel:
    if build is None:
        raise ArgumentError(
            f"{path.name}: holds weights only; name the model they belong to with architecture= (--architecture MODULE:NAME)"
        )
    tensors, module = read(path), build()
    try:
        module.load_state_dict(tensors)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ArgumentError(
            f"{path.name}: the weights do not fit the architecture: {' '.join(str(error).split())[:300]}"
        ) from error
    return LoadedModel(module.eval(), kind, digest)


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError, OverflowError) as error:
        raise UnsafeFileError(
            f"{path.name}: a damaged safetensors file ({' '.join(str(error).split())[:120]})"
        ) from error


def _read_checkpoint(path: Path) -> dict[str, Any]:
    import pickle

    import torch

    try:
        with warnings.catch_warnings():  # about pickle protocols that it can read all the same
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, TypeError, KeyError, IndexError,
            AttributeError, OverflowError, MemoryError, AssertionError) as error:  # fmt: skip
        raise UnsafeFileError(f"{path.name}: a damaged checkpoint ({' '.join(str(error).split())[:120]})") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise UnsafeFileError(f"{path.name}: the checkpoint is not a dictionary of tensors; save module.state_dict()")
    return found


class Session:
    """A model inside the child process: loads it, says what it takes, answers arrays."""

    def __init__(self, path: str, kind: str) -> None:
        self.about: dict[str, Any] = {"kind": kind}
        if kind == "onnx":
            self._open_onnx(path)
        else:
            self._open_trusted(path, kind)

    def _open_onnx(self, path: str) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise missing_extra("onnxruntime", "onnx", "running an ONNX file") from error
        inspect_graph(Path(path))
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.load_model_format", "ONNX")
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        inputs = session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(i.name[:40] for i in inputs[:8])
            raise ModelError(
                f"the model takes {len(inputs)} inputs ({names}) and a file is audited by one: {_OWN_FUNCTION}"
            )
        dtype = _NUMPY_TYPES.get(inputs[0].type)
        if dtype is None:
            raise ModelError(f"the model takes {inputs[0].type} and noise is of floating point: {_OWN_FUNCTION}")
        shape = list(inputs[0].shape or [])[1:]
        if shape and all(isinstance(n, int) and n > 0 for n in shape):
            self.about["input_shape"] = shape
        self.about["outputs"] = [output.name for output in session.get_outputs()]
        batch = inputs[0].shape[0] if inputs[0].shape else None
        fixed = batch if isinstance(batch, int) and batch > 0 else None

        def ask(x: np.ndarray) -> np.ndarray:
            x = x.astype(dtype)
            pieces = [x] if fixed is None else _pieces(x, fixed)
            found = [np.asarray(session.run(None, {inputs[0].name: p})[0]) for p in pieces]
            return np.concatenate(found)[: len(x)]

        self.ask: Any = ask

    def _open_trusted(self, path: str, kind: str) -> None:
        import torch

        if kind == "torchscript":
            module: Any = torch.jit.load(path, map_location="cpu")
        elif kind == "pt2":
            module = torch.export.load(path).module()
        else:
            module = torch.load(path, map_location="cpu", weights_only=False)
        if not callable(module):
            raise ArgumentError(f"the file holds a {type(module).__name__}, not a model")
        if isinstance(module, torch.nn.Module) and kind != "pt2":
            module.eval()

        def ask(x: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                found = module(torch.from_numpy(x.copy()))
            scores: Any = found[0] if isinstance(found, (tuple, list)) else found
            return scores.detach().numpy()

        self.ask = ask


def _pieces(x: np.ndarray, size: int) -> list[np.ndarray]:
    """Batches of exactly ``size`` rows; the last one is filled up with its own first row."""
    found = [x[i : i + size] for i in range(0, len(x), size)]
    short = size - len(found[-1])
    if short:
        found[-1] = np.concatenate([found[-1], np.repeat(found[-1][:1], short, 0)])
    return found
