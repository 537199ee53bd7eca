"""What several verbs need: consoles, output folders, the rule against overwriting."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import __version__
from .._errors import ArgumentError

stderr = Console(stderr=True, highlight=False)


def out_folder(path: Path, force: bool, finished: str, *inputs: str | Path | None) -> Path:
    """The folder for results; refuses one that holds a finished result, unless ``force`` clears it.

    Only a folder that gyrostat made (it holds ``config.json`` or ``finished``) is ever cleared, and never one with an input
    in it: paths and data specs that the command reads.
    """
    if path.exists() and not path.is_dir():
        raise ArgumentError(f"--out {path}: is a file; name a folder")
    if path.is_dir() and any(path.iterdir()):
        ours = (path / finished).is_file() or (path / "config.json").is_file()
        if not ours:
            raise ArgumentError(f"--out {path}: the folder is not empty and not one of ours; name another")
        if held := [found for found in _files(inputs) if found.is_relative_to(path.resolve())]:
            raise ArgumentError(f"--out {path}: {held[0]} is read by this command and lies there; name another folder")
        if force:
            shutil.rmtree(path)
        elif (path / finished).is_file():
            raise ArgumentError(
                f"--out {path}: holds a finished result; add --force to replace it, or name another folder"
            )
    path.mkdir(parents=True, exist_ok=True)
    return path


def out_file(path: Path, force: bool, *inputs: str | Path | None, option: str = "--out") -> Path:
    """Where a single file goes, known before any work is done.

    Refuses a folder, a file that exists unless ``force``, an input of the command with or without it, and a place where
    nothing can be written.
    """
    if path.is_dir():
        raise ArgumentError(f"{option} {path}: is a folder; name a file")
    if path.resolve() in _files(inputs):
        raise ArgumentError(f"{option} {path}: is read by this command; name another file")
    if path.exists() and not force:
        raise ArgumentError(f"{option} {path}: exists; add --force to replace it, or name another file")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return path
    except OSError as error:
        raise ArgumentError(
            f"{option} {path}: nothing can be written in {folder} ({error.strerror}); name another folder"
        ) from error


def page_file(path: Path, force: bool, *inputs: str | Path | None) -> Path:
    """Where a single HTML page goes; refuses another ending, and what ``out_file`` refuses."""
    if path.suffix.lower() not in (".html", ".htm") and not path.is_dir():
        raise ArgumentError(f"--out {path}: must end in .html")
    return out_file(path, force, *inputs)


def _files(inputs: tuple[str | Path | None, ...]) -> list[Path]:
    """What exists of paths, lists of paths with commas between, and data files with options behind a colon."""
    words = [word for given in inputs if given is not None for word in (str(given), *str(given).split(","))]
    paths = [Path(part) for word in words for part in (word, word.rpartition(":")[0]) if part]
    return [path.resolve() for path in paths if path.exists()]


def facts() -> dict[str, Any]:
    """Versions and the command line, for the end of a report."""
    import numpy
    import torch

    return {
        "command": shlex.join(["gyrostat", *sys.argv[1:]]),
        "gyrostat": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
    }


def result_console() -> Console:
    """The console for tables on stdout: as wide as the terminal, or 120 columns where stdout is a file."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=1, allow_nan=False))
