"""The entry point: lists the verbs, maps errors to exit codes.

Each file of this folder is a verb: ``cli/compare.py`` holds the function ``compare`` and is imported only when called.
Exit codes: 0 done, 1 a finding (``scan``), 2 bad input or usage (4 where a verb's ``USAGE_EXIT`` says so), 130 interrupted
(type the same line again to resume).
stdout carries the result, stderr the progress and the errors.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import cyclopts
from rich.console import Console

from .. import __version__
from .._errors import GyrostatError, printable

_NOT_VERBS = {"app"}


def verbs() -> list[str]:
    """Names of the verbs, read off the files of this folder; files that start with an underscore are helpers."""
    found = (m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(name for name in found if not name.startswith("_") and name not in _NOT_VERBS)


def purpose(verb: str) -> str:
    """What a verb is for: the first line of its file, which is read but not imported."""
    with (Path(__file__).parent / f"{verb}.py").open(encoding="utf-8") as file:
        words = file.readline().partition("``: ")[2].strip(' ".\n')
    return words[:1].upper() + words[1:]


def build_app(listing: bool = False) -> cyclopts.App:
    """The cyclopts application with one lazily imported command per verb.

    Args:
        listing: Say beside each verb what it is for; the page of a verb is then that line instead of its docstring.
    """
    app = cyclopts.App(
        name="gyrostat",
        version=__version__,
        help="Deep learning as a dynamical system: stable recurrent layers, continuous depth, audits, sketched SVDs.",
        help_format="plaintext",
        suppress_keyboard_interrupt=False,  # an interruption has a sentence of its own
        default_parameter=cyclopts.Parameter(converter=_convert),
    )
    for verb in verbs():
        told = {"help": purpose(verb)} if listing else {}
        app.command(f"gyrostat.cli.{verb}:{verb}", name=verb.replace("_", "-"), **told)
    return app


def _convert(kind: Any, tokens: Sequence[cyclopts.Token]) -> Any:
    """As cyclopts does, but 2.7 is no integer: it would become 3."""
    if int in (kind, *get_args(kind)):
        for token in tokens:
            if "." in token.value and not float(token.value).is_integer():
                raise ValueError
    return cyclopts.convert(kind, tokens)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(argv))


def run(argv: list[str] | None = None) -> int:
    """Run one command line; the exit code comes back instead of ending the process."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _say(errors, str(message), kind="warning")
            code = build_app(listing=not _words(argv))(
                argv, exit_on_error=False, print_error=False, error_console=errors, result_action="return_value"
            )
    except cyclopts.CycloptsError as error:
        _say(errors, str(error))
        return _usage_exit(argv)
    except GyrostatError as error:
        _say(errors, str(error))
        return _usage_exit(argv)
    except KeyboardInterrupt:
        _say(errors, "interrupted; type the same line again to go on from the last checkpoint", kind="stopped")
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        _say(errors, f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
        return 2
    return code if isinstance(code, int) else 0


def _usage_exit(argv: list[str] | None) -> int:
    """2, or what the verb's file says: the audit verbs keep 2 and 3 for what they find."""
    words = _words(argv)
    if not words or words[0].replace("-", "_") not in verbs():
        return 2
    return getattr(importlib.import_module(f"gyrostat.cli.{words[0].replace('-', '_')}"), "USAGE_EXIT", 2)


def _words(argv: list[str] | None) -> list[str]:
    return [w for w in (sys.argv[1:] if argv is None else argv) if not w.startswith("-")]


def _say(console: Console, message: str, kind: str = "error") -> None:
    console.print(f"gyrostat: {kind}: {printable(message)}", markup=False)


if __name__ == "__main__":
    main()
