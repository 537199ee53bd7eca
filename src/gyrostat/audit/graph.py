"""What an ONNX graph would touch beyond itself: external files, operators from elsewhere.

accepted  ⇔  it parses  ∧  every operator ∈ known domains ∪ its own functions  ∧  every external file is a plain file inside
the model's folder that holds the bytes asked for
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._errors import UnsafeFileError, missing_extra

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
# these load a file or a library named in the graph
FORBIDDEN_OPERATORS = frozenset({"EPContext", "PyOp", "PythonOp", "TorchScriptOp", "ATen"})
MAX_PARTS = 200_000


def inspect_graph(path: Path) -> Any:
    """Parse an ONNX file without touching anything else, and refuse it if it would.

    Returns:
        The parsed ``ModelProto``, external data not loaded.

    Raises:
        UnsafeFileError: The file is damaged, names a file outside its folder, or needs operators from elsewhere.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise missing_extra("onnx", "onnx", "reading an ONNX file") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, ValueError, RecursionError, MemoryError) as error:
        raise UnsafeFileError(f"{path.name}: not a readable ONNX file; copy or export it again") from error
    if not model.graph.node and not model.graph.output:
        raise UnsafeFileError(f"{path.name}: the ONNX file holds no graph; copy or export it again")
    own = {(f.domain, f.name) for f in model.functions}
    folder = path.resolve().parent
    for kind, part in _parts(model, path.name):
        if kind == "node" and (part.domain, part.op_type) not in own:
            if part.domain not in DOMAINS or part.op_type in FORBIDDEN_OPERATORS:
                raise UnsafeFileError(
                    f"{path.name}: needs the operator {part.domain[:60]}::{part.op_type[:60]}, which is code from elsewhere; "
                    "export the model with standard operators"
                )
        elif kind == "tensor" and part.data_location == onnx.TensorProto.EXTERNAL:
            _check_external({e.key: e.value for e in part.external_data}, folder, path.name)
    return model


def _parts(model: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every node and tensor, nested graphs and functions included, without recursion."""
    waiting: list[Any] = [model.graph, *model.functions]
    for info in model.training_info:
        waiting += [info.initialization, info.algorithm]
    seen = 0
    while waiting:
        graph = waiting.pop()
        tensors = list(getattr(graph, "initializer", ()))
        for sparse in getattr(graph, "sparse_initializer", ()):
            tensors += [sparse.values, sparse.indices]
        attributes = list(getattr(graph, "attribute_proto", ()))
        for node in graph.node:
            yield "node", node
            attributes += node.attribute
        for a in attributes:
            tensors += [a.t, *a.tensors, a.sparse_tensor.values, a.sparse_tensor.indices]
            for sparse in a.sparse_tensors:
                tensors += [sparse.values, sparse.indices]
            waiting += ([a.g] if a.HasField("g") else []) + list(a.graphs)
        seen += len(graph.node) + len(tensors) + 1
        if seen > MAX_PARTS:
            raise UnsafeFileError(f"{name}: more than {MAX_PARTS:,} nodes and tensors")
        for tensor in tensors:
            yield "tensor", tensor


def _check_external(entry: dict[str, str], folder: Path, name: str) -> None:
    location = entry.get("location", "")
    if not isinstance(location, str):  # a string field that is not UTF-8 arrives as bytes
        raise UnsafeFileError(f"{name}: the name of its weights is not text; copy or export it again")
    relative = Path(location)
    inside = (
        location
        and not relative.is_absolute()
        and ".." not in relative.parts
        and "\\" not in location
        and "\0" not in location
    )
    if not inside:
        raise UnsafeFileError(f"{name}: its weights are said to lie in {location[:80]!r}, outside the model's folder")
    place = folder
    for part in relative.parts:
        place = place / part
        if place.is_symlink():
            raise UnsafeFileError(f"{name}: {location[:80]!r} is a symbolic link; put the file itself beside the model")
    if not place.is_file():
        raise UnsafeFileError(f"{name}: its weights {location[:80]!r} are missing; put that file beside the model")
    try:
        offset, length = int(entry.get("offset") or 0), int(entry.get("length") or 0)
    except ValueError as error:
        raise UnsafeFileError(f"{name}: the place of its weights in {location[:80]!r} is not a number") from error
    if offset < 0 or length < 0 or offset + length > place.stat().st_size:
        raise UnsafeFileError(f"{name}: asks for bytes beyond the end of {location[:80]!r}; copy both files again")
