"""One file, one verdict: load it safely, titrate it, compare it with clean references.

verdict = reference.score(reference.ask(load_model(path)));    exit code 0 none | 1 suspicious | 2 failed | 3 refused | 4 usage
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._errors import ArgumentError, DataError, GyrostatError, UnsafeFileError, printable
from .._results import Result
from .formats import sniff
from .load import LoadedModel, load_model, pickle_report, sha256_of
from .panel import Panel, load_reference
from .reference import Reference
from .titration import TitrationCurve, titrate
from .verdict import Verdict, uncalibrated
from .worker import Limits

SCHEMA_VERSION = 1
LIMITS_IN_WORDS = (
    "This is a screening feature, not a proof.",
    "Small local triggers can stay silent; sample-specific, clean-label, warped and semantic ones are hard to excite by noise.",
    "Models trained with noise or adversaries, or of another architecture, answer noise differently from the references.",
    "Whoever knows this test can train against it.",
)


@dataclass(frozen=True)
class Report(Result):
    """What an audit of one model found.

    Attributes:
        name: File name, or the class of a model in memory.
        sha256: Digest of the file; empty for a model in memory.
        format: Of the file.
        verdict: The verdict; ``None`` where the file was refused or failed.
        curve: The titration curve behind it; the first, where references combine several.
        refused: Why the file was not loaded, in words.
        would_call: What its pickle would call.
        failed: Why the model could not be asked, in words.
        warnings: What its reader should know.
        seconds: Loading and titration.
        reference_mean: Mean class shares ``(3, K)`` of the references.
        other_curves: The rest, where references combine several.
    """

    name: str
    sha256: str
    format: str
    verdict: Verdict | None = None
    curve: TitrationCurve | None = None
    refused: str = ""
    would_call: tuple[str, ...] = ()
    failed: str = ""
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    reference_mean: Any = None
    other_curves: tuple[TitrationCurve, ...] = ()

    def exit_code(self, *, strict: bool = False, fail_on_score: float | None = None) -> int:
        """0 no finding or uncalibrated, 1 suspicious, 2 failed, 3 refused; inconclusive is 1 when ``strict``."""
        if self.refused:
            return 3
        if self.failed or self.verdict is None or self.curve is None:
            return 2
        found = {"suspicious", "inconclusive"} if strict else {"suspicious"}
        over = fail_on_score is not None and self.curve.score() > fail_on_score
        return int(self.verdict.label in found or over)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the schema's version first."""
        return {"schema_version": SCHEMA_VERSION, **super().to_dict()}


def scan(
    model: Any,
    *,
    reference: Reference | Panel | str | Path | None = None,
    input_shape: tuple[int, ...] | None = None,
    base_images: Any = None,
    architecture: Callable[[], Any] | None = None,
    trust: bool = False,
    limits: Limits | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Report:
    """Audit a model file, or a model in memory, by its response to noise.

    Args:
        model: Path of an ONNX file, safetensors or checkpoint; or an ``nn.Module``, session or callable.
        reference: Clean references, or the path of their JSON; their settings are used.
        input_shape: Shape of one input, where the file does not say it.
        base_images: Own base inputs, as in :func:`titrate`.
        architecture: Builds the module that weights belong to.
        trust: Load formats that execute code, in a process with limits.
        limits: Of that process.
        on_batch: Progress: inputs done and in all.
        **settings: As in :func:`titrate`.

    Returns:
        The report; a file that is refused or fails is a report too, never an exception.

    Raises:
        ArgumentError: The arguments do not fit each other or the model: a usage error.
        DataError: The base images or the reference cannot be used.

    Example:
        >>> import torch
        >>> report = scan(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)), input_shape=(1, 2, 2), n=16)
        >>> report.verdict.label, report.exit_code()
        ('uncalibrated', 0)
    """
    started, of_reference = time.perf_counter(), False
    if isinstance(reference, (str, Path)):
        reference = load_reference(reference)
    if reference is not None:
        of_reference = input_shape is None
        input_shape = input_shape or tuple(reference.settings["input_shape"])
    if not isinstance(model, (str, Path)):
        about: dict[str, Any] = {"name": type(model).__name__, "sha256": "", "format": "in memory"}
        opened = LoadedModel(model, "in memory", "", None)
    else:
        path = Path(model)
        if not path.exists():
            raise ArgumentError(f"{path}: no such file")
        about = {"name": printable(path.name), "sha256": sha256_of(path) if path.is_file() else "", "format": "unknown"}
        try:
            about["format"] = sniff(path).name
            opened = load_model(path, architecture=architecture, trust=trust, limits=limits)
        except UnsafeFileError as error:
            return Report(
                **about,
                refused=printable(str(error)),
                would_call=_would_call(path),
                seconds=time.perf_counter() - started,
            )
        except ArgumentError:
            raise
        except GyrostatError as error:
            return Report(**about, failed=printable(str(error)), seconds=time.perf_counter() - started)
    with opened:
        shape = input_shape or opened.input_shape
        if shape is not None and opened.input_shape not in (None, tuple(shape)):
            whose = "the reference was made with" if of_reference else "--input-shape says"
            raise ArgumentError(
                f"{about['name']}: takes inputs of shape {opened.input_shape}, and {whose} {tuple(shape)}"
            )
        if shape is None and base_images is None:
            raise ArgumentError(
                f"{about['name']}: does not say the shape of its input; give --input-shape, e.g. 3,224,224"
            )
        try:
            ask = titrate if reference is None else reference.ask
            found = ask(opened.predict, base_images, input_shape=shape, on_batch=on_batch, **settings)
        except (ArgumentError, DataError):
            raise
        except GyrostatError as error:
            return Report(
                **about, failed=printable(str(error)), warnings=opened.warnings, seconds=time.perf_counter() - started
            )
    curve, *others = (found,) if isinstance(found, TitrationCurve) else found
    if reference is None:
        verdict = uncalibrated(curve)
    else:
        verdict = reference.score(found)  # pyright: ignore[reportArgumentType]
        opened.warnings.extend(reference.doubts(found))  # pyright: ignore[reportArgumentType]
    return Report(
        **about, verdict=verdict, curve=curve, warnings=opened.warnings, seconds=time.perf_counter() - started,
        reference_mean=None if reference is None else reference.mean, other_curves=tuple(others),
    )  # fmt: skip


def _would_call(path: Path) -> tuple[str, ...]:
    try:
        return pickle_report(path).refused if path.is_file() else ()
    except UnsafeFileError:
        return ()
