"""What is this file?  Its first bytes decide, never its name.

format(file) = the first rule of RULES whose bytes match;  zip archives by their member names;  ONNX by its protobuf fields
"""

from __future__ import annotations

import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .._errors import UnsafeFileError
from .._results import Result

HEAD = 4096
# format: what it is in words, and the way out where it is refused
REMEDIES = {
    "torchscript": "TorchScript runs code when loaded; export the model with torch.onnx.export",
    "pt2": "torch.export archives fall back to full unpickling when loaded; export the model with torch.onnx.export",
    "keras": "Keras archives can hold Python code (Lambda layers); export the model with tf2onnx",
    "hdf5": "HDF5 models can hold Python code (Lambda layers); export the model with tf2onnx",
    "savedmodel": "TensorFlow graphs can read and write files; export the model with tf2onnx",
    "tflite": "TFLite is not supported; export the model with tf2onnx",
    "numpy": "numpy arrays are not a model; hand over ONNX, or safetensors with its architecture",
    "gguf": "GGUF holds language models; hand over ONNX, or safetensors with its architecture",
    "tar": "legacy tar checkpoints unpickle when loaded; re-save it with safetensors",
    "gzip": "unpack the file first; what is inside decides",
    "zip": "the archive is not a checkpoint of torch; hand over ONNX, or safetensors with its architecture",
    "pickle": "pickles execute code when loaded; hand over ONNX, or safetensors with its architecture",
    "unknown": "the format is not known; hand over ONNX, or safetensors with its architecture",
}
SUPPORTED = ("onnx", "safetensors", "torch")


@dataclass(frozen=True)
class FileFormat(Result):
    """What a file is.

    Attributes:
        name: ``onnx``, ``safetensors``, ``torch`` (a zip checkpoint), or one of the refused kinds.
        remedy: The way out for a refused kind; empty for the supported ones.
    """

    name: str
    remedy: str = ""


def sniff(path: Path) -> FileFormat:
    """The format of a file by its bytes.

    Raises:
        UnsafeFileError: It is not a regular file, or it is empty.
    """
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return _format("savedmodel")
    if not path.exists():
        raise UnsafeFileError(f"{path}: no such file")
    if not path.is_file():
        raise UnsafeFileError(f"{path}: not a regular file; name one model file")
    size = path.stat().st_size
    if size == 0:
        raise UnsafeFileError(f"{path.name}: the file is empty; copy it again")
    with path.open("rb") as file:
        head = file.read(HEAD)
        file.seek(max(0, size - HEAD))
        tail = file.read(HEAD)
    if head.startswith(b"PK\x03\x04") or head.startswith(b"PK\x05\x06"):
        return _format(_zip_kind(path))
    for name, magic, offset in (
        ("hdf5", b"\x89HDF\r\n\x1a\n", 0),
        ("numpy", b"\x93NUMPY", 0),
        ("gguf", b"GGUF", 0),
        ("gzip", b"\x1f\x8b", 0),
        ("tflite", b"TFL3", 4),
        ("tar", b"ustar", 257),
    ):
        if head[offset : offset + len(magic)] == magic:
            return _format(name)
    if _is_safetensors(head, size):
        return FileFormat("safetensors")
    if _is_pickle(head):
        return _format("pickle")
    if _is_onnx(head, size):
        # torch looks for a zip directory at the end of a file, so an archive glued behind a graph is a disguise
        if b"PK\x05\x06" in tail:
            raise UnsafeFileError(f"{path.name}: a zip archive is glued to the end of it; it is two files in one")
        return FileFormat("onnx")
    return _format("unknown")


def _format(name: str) -> FileFormat:
    return FileFormat(name, "" if name in SUPPORTED else REMEDIES[name])


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist()[:10_000] if n]
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError, IndexError) as error:
        raise UnsafeFileError(f"{path.name}: a damaged zip archive ({' '.join(str(error).split())[:80]})") from error
    inner = {n.split("/", 1)[1] if "/" in n else n for n in names}
    if "data.pkl" in inner:
        scripted = "constants.pkl" in inner or any(n.startswith("code/") for n in inner)
        return "torchscript" if scripted else "torch"
    if "archive_format" in inner or any(n.endswith(("serialized_exported_program.json", ".pt2")) for n in names):
        return "pt2"
    if any(n.startswith("models/") and n.endswith(".json") for n in inner):
        return "pt2"
    if {"config.json", "metadata.json"} <= set(names):
        return "keras"
    return "numpy" if names and all(n.endswith(".npy") for n in names) else "zip"


def _is_safetensors(head: bytes, size: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    return size >= 10 and 2 <= length <= size - 8 and head[8:9] == b"{"


def _is_pickle(head: bytes) -> bool:
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        return True
    # protocols 0 and 1 have no magic: two opcodes that parse, the first of which a text-mode pickle starts with
    if head[:1] not in b"(cdilIFSVNLKMJGU]})\x88\x89":
        return False
    seen = 0
    try:
        for opcode, _, _ in pickletools.genops(head):
            seen += 1
            if opcode.name == "STOP" or seen >= 8:
                return True
    except ValueError:
        return seen >= 4
    return False


def _is_onnx(head: bytes, size: int) -> bool:
    """Whether the bytes start like a ModelProto: known fields with fitting wire types, ir_version among the first."""
    position, fields = 0, []
    while position < len(head) and len(fields) < 6:
        key, position = _varint(head, position)
        if key is None:
            break
        number, wire = key >> 3, key & 7
        wanted = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
        if wanted.get(number) != wire:
            return False
        value, position = _varint(head, position)
        if value is None:
            break
        if number == 1 and not 1 <= value <= 1000:
            return False
        fields.append(number)
        if wire == 2:
            if position + value > size:
                return False
            position += value
    return bool(fields) and (1 in fields[:2] or 7 in fields)


def _varint(data: bytes, position: int) -> tuple[int | None, int]:
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    return None, position
