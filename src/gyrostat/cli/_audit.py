"""What the verbs of the audit share."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .._errors import ArgumentError
from ._shared import facts, stderr


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """``"3,224,224"`` as numbers."""
    if text is None:
        return None
    parts = text.lower().replace("x", ",").split(",")
    if not all(p.strip().isdigit() and int(p) > 0 for p in parts):
        raise ArgumentError(f"--input-shape must be sizes like 3,224,224, got {text!r}")
    return tuple(int(p) for p in parts)


def parse_range(text: str | None) -> tuple[float, float] | None:
    """``"-1,1"`` as the valid range of an input."""
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise ArgumentError(f"--clip must be LOW,HIGH like -1,1, got {text!r}") from error
    return low, high


def child_limits(memory: float, timeout: float) -> Any:
    """``--memory`` and ``--timeout`` as limits of the model's process."""
    from ..audit.worker import Limits

    if not 1 <= memory < 1 << 20:
        raise ArgumentError(f"--memory must be at least 1 (GiB; the runtime alone takes most of it), got {memory:g}")
    if not 0 < timeout < 1 << 30:
        raise ArgumentError(f"--timeout must be a number of seconds above 0, got {timeout:g}")
    return Limits(memory=int(memory * 2**30), wait_seconds=timeout)


def by_ending(out: Path | None) -> str:
    """The form that the ending of ``--out`` asks for."""
    endings = {".html": "html", ".htm": "html", ".json": "json", ".sarif": "sarif", ".md": "md"}
    return "text" if out is None else endings.get(out.suffix.lower(), "text")


def build_architecture(name: str | None) -> Callable[[], Any] | None:
    """The user's own function ``MODULE:NAME``."""
    if name is None:
        return None
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ArgumentError(f"--architecture must be MODULE:NAME, got {name!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ArgumentError(f"--architecture {name}: {error}") from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise ArgumentError(f"--architecture {name}: is not a function that builds a model")
    return found


@contextlib.contextmanager
def progress_bar(quiet: bool, words: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress line on stderr for inputs done."""
    if quiet or not stderr.is_terminal:
        yield None
        return
    from rich.progress import Progress

    with Progress(console=stderr, transient=True) as bar:
        task = bar.add_task(words, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def render(report: Any, form: str, path: Path, out: Path | None) -> str:
    """The report in one form: written to ``out``, or returned for stdout."""
    from ..audit.report import headline, to_markdown, to_page, to_sarif
    from ..report.page import write_atomically

    if form == "html":
        if out is None:
            raise ArgumentError("--format html needs a file: add --out audit.html")
        to_page(report, facts()).write(out)
        return f"{headline(report)}\n{out}\n"
    if form == "json":
        text = json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n"
    elif form == "sarif":
        text = json.dumps(to_sarif(report, path.as_posix()), indent=1) + "\n"
    elif form == "md":
        text = to_markdown(report)
    else:
        text = headline(report) + "\n"
    if out is None:
        return text
    write_atomically(out, text.encode())
    return f"{headline(report)}\n{out}\n"
