"""Open a matrix file as rows: .npy, sparse .npz, zarr, HDF5, csv, parquet; nothing is unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._errors import DataError, GyrostatError, missing_extra

BLOCK = 8192


def open_matrix(file: Path, dataset: str | None = None) -> Any:
    """Rows of the matrix in ``file``, watched for changes while they are read.

    Raises:
        DataError: The file is missing, damaged, or does not hold a matrix of numbers.
    """
    from ..sketch.rows import as_rows, watch_file

    if not file.exists():
        raise DataError(f"{file} does not exist; give the path of a .npy, .npz, .zarr, .h5, .csv or .parquet file")
    if dataset is not None and file.suffix.lower() in (".npy", ".csv", ".parquet"):
        raise DataError(f"--dataset: {file} holds one matrix only; leave it out")
    guard = watch_file(file)
    opener = {
        ".npy": _npy,
        ".npz": _npz,
        ".zarr": _zarr,
        ".h5": _hdf5,
        ".hdf5": _hdf5,
        ".csv": _csv,
        ".parquet": _parquet,
    }.get(file.suffix.lower())
    if opener is None:
        raise DataError(
            f"{file}: files of type {file.suffix or '(none)'} are not read; use .npy, .npz, .zarr, .h5, .csv or .parquet"
        )
    try:
        rows, _ = as_rows(opener(file, dataset))
    except GyrostatError:
        raise
    except (ValueError, TypeError, EOFError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} cannot be read as a matrix: {error}") from error
    rows.guard = guard
    return rows


def _npy(file: Path, dataset: str | None) -> Any:
    from ..sketch.npy import NpyFile

    return NpyFile(file)


def _npz(file: Path, dataset: str | None) -> Any:
    import numpy as np
    import scipy.sparse as sp

    if not zipfile.is_zipfile(file):
        raise DataError(f"{file} is not a .npz archive; write it with scipy.sparse.save_npz or numpy.savez")
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
        names = set(held.files)
        if not {"format", "shape", "data"} <= names:
            return _only(file, {name: held[name] for name in names if dataset in (None, name)}, dataset)
    return sp.load_npz(file)


def _zarr(file: Path, dataset: str | None) -> Any:
    try:
        import zarr
    except ImportError as error:
        raise missing_extra("zarr", "dask", "Reading zarr") from error
    found: Any = zarr.open(str(file), mode="r")
    if hasattr(found, "shape"):
        return found
    return _only(file, dict(found.arrays()), dataset)


def _hdf5(file: Path, dataset: str | None) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise missing_extra("h5py", "dask", "Reading HDF5") from error
    found = h5py.File(file, "r")
    return _only(file, {k: v for k, v in found.items() if isinstance(v, h5py.Dataset) and v.ndim == 2}, dataset)


def _only(file: Path, arrays: dict[str, Any], dataset: str | None) -> Any:
    if dataset is not None and dataset in arrays:
        return arrays[dataset]
    if dataset is None and len(arrays) == 1:
        return next(iter(arrays.values()))
    raise DataError(f"{file} holds the matrices {sorted(arrays)}; choose one with --dataset")


def _csv(file: Path, dataset: str | None) -> Any:
    import numpy as np

    with file.open(encoding="utf-8") as stream:
        first = stream.readline()
    if not first.strip():
        raise DataError(f"{file} is empty; it must hold one row of numbers a line")
    delimiter = max(",;\t", key=first.count)
    # a first line that is no numbers holds the names of the columns
    skip = 0 if _wrong(first, delimiter, None) is None else 1

    def blocks() -> Iterator[Any]:
        with file.open(encoding="utf-8") as stream:
            for _ in range(skip):
                stream.readline()
            at, width = skip, None
            while lines := stream.readlines(BLOCK * max(8, len(first))):
                try:
                    block = np.loadtxt(lines, delimiter=delimiter, ndmin=2)
                except ValueError as error:
                    for number, line in enumerate(lines, start=at + 1):
                        width = width or line.count(delimiter) + 1
                        if (why := _wrong(line, delimiter, width)) is not None:
                            raise DataError(f"{file}: line {number} {why}") from error
                    raise DataError(f"{file}: lines {at + 1} to {at + len(lines)}: {error}") from error
                width = width or block.shape[1]
                yield block
                at += len(lines)

    return blocks


def _wrong(line: str, delimiter: str, width: int | None) -> str | None:
    """What keeps a line from being ``width`` numbers."""
    fields = line.strip().split(delimiter)
    for number, field in enumerate(fields, start=1):
        try:
            float(field)
        except ValueError:
            return f"holds {field.strip()[:40]!r} in column {number}, which is not a number"
    if width is not None and len(fields) != width:
        return f"has {len(fields)} columns, but {width} were expected"
    return None


def _parquet(file: Path, dataset: str | None) -> Any:
    import numpy as np

    try:
        from pyarrow import parquet, types  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet", "Reading parquet") from error

    def blocks() -> Iterator[Any]:
        try:
            with parquet.ParquetFile(file) as found:
                for column in found.schema_arrow:
                    if not (types.is_integer(column.type) or types.is_floating(column.type)):
                        raise DataError(f"{file}: column {column.name!r} is of type {column.type}; keep numbers only")
                for batch in found.iter_batches(batch_size=BLOCK):
                    yield np.column_stack([c.to_numpy(zero_copy_only=False) for c in batch.columns])
        except OSError as error:
            raise DataError(f"{file} cannot be read to its end: {error}") from error

    return blocks
