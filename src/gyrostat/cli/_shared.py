"""What several verbs need: consoles, output folders, the rule against overwriting."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import __version__
from .._errors import ArgumentError

stderr = Console(stderr=True, highlight=False)


def out_folder(path: Path, force: bool, finished: str) -> Path:
    """The folder for results; refuses one that holds a finished result, unless ``force`` clears it.

    Only a folder that gyrostat made (it holds ``config.json`` or ``finished``) is ever cleared.
    """
    if path.exists() and not path.is_dir():
        raise ArgumentError(f"--out {path}: is a file; name a folder")
    if path.is_dir() and any(path.iterdir()):
        ours = (path / finished).is_file() or (path / "config.json").is_file()
        if not ours:
            raise ArgumentError(f"--out {path}: the folder is not empty and not one of ours; name another")
        if force:
            shutil.rmtree(path)
        elif (path / finished).is_file():
            raise ArgumentError(
                f"--out {path}: holds a finished result; add --force to replace it, or name another folder"
            )
    path.mkdir(parents=True, exist_ok=True)
    return path


def page_file(path: Path, force: bool) -> Path:
    """Where a single HTML page goes; refuses a folder, another ending, and a page that exists unless ``force``."""
    if path.is_dir():
        raise ArgumentError(f"--out {path}: is a folder; name a file such as {path / 'page.html'}")
    if path.suffix.lower() not in (".html", ".htm"):
        raise ArgumentError(f"--out {path}: must end in .html")
    if path.exists() and not force:
        raise ArgumentError(f"--out {path}: exists; add --force to replace it, or name another file")
    return path


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
