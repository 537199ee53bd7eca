"""Errors with a remedy.

Every error that gyrostat raises on purpose is a :class:`GyrostatError` and, beside it, the built-in class that torch or
Python would raise in the same place, so ``except ValueError`` keeps working. The message names the argument, says what
was wrong, and what to do now. The command line turns a :class:`GyrostatError` into one sentence and exit code 2.
"""


class GyrostatError(Exception):
    """Base of all errors that gyrostat raises on purpose."""


class ArgumentError(GyrostatError, ValueError):
    """An argument has a value that cannot be used."""


class ArgumentTypeError(GyrostatError, TypeError):
    """An argument has a type that cannot be used."""


class ShapeError(GyrostatError, RuntimeError):
    """A tensor has a size that does not fit (``RuntimeError``, as in ``torch.nn.LSTM``)."""


class DataError(GyrostatError, ValueError):
    """A data set or a file of the user cannot be used as it is."""


class NonFiniteError(GyrostatError, ValueError):
    """NaN or Inf where a finite number is needed; the message says where the first one stands."""


class CheckpointError(GyrostatError, ValueError):
    """A checkpoint or run directory is damaged, incomplete, or belongs to something else."""


class UnsafeFileError(GyrostatError, ValueError):
    """A file could execute code when loaded; it is refused."""


class ModelError(GyrostatError, RuntimeError):
    """A model that was handed over failed when it was asked."""


class MemoryBudgetError(GyrostatError, MemoryError):
    """The work would need more memory than allowed; raised before anything is allocated."""


class ConvergenceError(GyrostatError, RuntimeError):
    """An iteration did not reach its tolerance; the message carries the residual."""


class HookError(GyrostatError, RuntimeError):
    """A module that a method watches did not run as the method needs it to."""


class MissingExtraError(GyrostatError, ImportError):
    """A feature needs an optional package; the message gives the install command."""


def missing_extra(package: str, extra: str, why: str) -> MissingExtraError:
    """The error for an optional package that is not installed.

    Args:
        package: Name of the missing package.
        extra: The gyrostat extra that brings it.
        why: What the package is needed for, as the start of a sentence.
    """
    return MissingExtraError(f"{why} needs the package {package!r}: install it with  pip install 'gyrostat[{extra}]'")


def printable(text: str) -> str:
    """A sentence in which a file's own words may stand, on one line: nothing in it moves the cursor of a terminal."""
    return "".join(ch if ch.isprintable() else "?" for ch in " ".join(text.split()))
