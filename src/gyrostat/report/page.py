"""The self-contained HTML page that every command writes: headings, sentences, tables, pictures; no method inside.

A page is one file: inline SVG and CSS, no script, no font and no request that leaves it; a Content-Security-Policy says
so to the browser. It reads from 400 to 1,400 pixels, in light and dark mode, and on paper.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from .figures import to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return escape(f"{value:.4g}")
    return escape(str(value))


class Page:
    """A report page built top to bottom, written once.

    Args:
        title: The page's heading and window title.
        subtitle: One line under it: data, date of the run, the command.

    Example:
        >>> page = Page("Which model?", "digits, 3 seeds")
        >>> page.verdict("Take LEM.", "It was the most accurate of five.", kind="good")
        >>> page.table(["model", "accuracy"], [["lem", 0.97], ["lstm", 0.95]], best_row=0)
        >>> "<h1>Which model?</h1>" in page.render()
        True
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        """A section heading."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, sentence: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{escape(sentence)}</p>")

    def verdict(self, headline: str, why: str = "", *, kind: str = "") -> None:
        """The answer of the page in a box; ``kind`` is ``"good"``, ``"bad"`` or empty."""
        self._parts.append(
            f'<div class="verdict {escape(kind)}"><strong>{escape(headline)}</strong>{escape(why)}</div>'
        )

    def figure(self, figure: Figure, caption: str, *, alt: str = "") -> None:
        """A matplotlib figure as inline SVG, with a caption; ``alt`` is read out to those who cannot see it."""
        svg = to_svg(figure).replace("<svg", f'<svg role="img" aria-label="{escape(alt or caption, quote=True)}"', 1)
        self._parts.append(
            f'<figure><div class="scroll" tabindex="0">{svg}</div><figcaption>{escape(caption)}</figcaption></figure>'
        )

    def images(self, tags: Iterable[tuple[str, str]]) -> None:
        """A gallery of ``(image_tag(...), caption)`` pairs."""
        cells = "".join(f"<figure>{tag}<figcaption>{escape(text)}</figcaption></figure>" for tag, text in tags)
        self._parts.append(f'<div class="gallery">{cells}</div>')

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        *,
        caption: str = "",
        best_row: int | None = None,
        text_columns: Sequence[int] = (),
    ) -> None:
        """A table; numbers get four digits, ``None`` becomes a dash, ``text_columns`` are left-aligned and wrap."""
        wide = set(text_columns)
        kind = [' class="text"' if i in wide else "" for i in range(len(columns))]
        head = "".join(f'<th scope="col"{kind[i]}>{escape(c)}</th>' for i, c in enumerate(columns))
        body = "".join(
            f"<tr{' class=best' if i == best_row else ''}>"
            + "".join(f"<td{kind[j]}>{_cell(v)}</td>" for j, v in enumerate(row))
            + "</tr>"
            for i, row in enumerate(rows)
        )
        note = f"<p class=subtitle>{escape(caption)}</p>" if caption else ""
        self._parts.append(
            f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>{note}"
        )

    def code(self, text: str, *, summary: str = "") -> None:
        """Verbatim text, folded away under ``summary`` when that is given."""
        block = f"<pre><code>{escape(text)}</code></pre>"
        self._parts.append(f"<details><summary>{escape(summary)}</summary>{block}</details>" if summary else block)

    def facts(self, facts: Mapping[str, Any], *, summary: str = "How this was made") -> None:
        """Name and value pairs (command, versions, seeds), folded away."""
        self.code("\n".join(f"{k}: {v}" for k, v in facts.items()), summary=summary)

    def render(self) -> str:
        """The whole page as text."""
        subtitle = f'<p class="subtitle">{escape(self.subtitle)}</p>' if self.subtitle else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{escape(self.title)}</title><link rel='icon' href='data:,'><style>{_CSS}</style></head>"
            "<body><main>"
            f"<h1>{escape(self.title)}</h1>{subtitle}\n"
            + "\n".join(self._parts)
            + f"\n<footer>gyrostat {__version__}. This page is one file and loads nothing from elsewhere.</footer>"
            "</main></body></html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page, whole or not at all."""
        path = Path(path)
        write_atomically(path, self.render().encode())
        return path


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one and nothing between."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
