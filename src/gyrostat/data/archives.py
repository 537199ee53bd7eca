"""Files inside a folder, a .zip or a .tar, read one after the other; nothing is unpacked to the disk."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .._errors import DataError

LARGEST = 200_000_000
OPENERS: dict[str, Any] = {".gz": gzip.open, ".tgz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


def members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each wanted file, in the order in which it is stored.

    Args:
        path: A folder, a .zip, or a .tar with any compression that tarfile knows.
        wanted: Told the name of a file relative to the top; whether to read it.

    Raises:
        DataError: The archive is damaged, or a file inside is larger than 200 MB.
    """
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            name = file.relative_to(path).as_posix()
            if wanted(name):
                _small_enough(path, name, file.stat().st_size)
                yield name, file.read_bytes()
        return
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    if not entry.is_dir() and wanted(entry.filename):
                        _small_enough(path, entry.filename, entry.file_size)
                        yield entry.filename, archive.read(entry)
            return
        # tarfile takes a file that ends too early for one that ends; the decompressors do not, and are read to their end
        with OPENERS.get(path.suffix, Path.open)(path, "rb") as raw, tarfile.open(fileobj=raw, mode="r|") as archive:
            for entry in archive:
                if entry.isfile() and wanted(entry.name):
                    _small_enough(path, entry.name, entry.size)
                    content = archive.extractfile(entry)
                    yield entry.name, content.read() if content else b""
            while raw.read(1 << 20):
                pass
    except _DAMAGE as error:
        raise DataError(f"{path.name}: not a whole .zip or .tar archive ({error}); fetch it again") from error


def _small_enough(path: Path, name: str, size: int) -> None:
    if size > LARGEST:
        raise DataError(f"{path.name}: {name} inside holds {size} bytes, more than {LARGEST}")
