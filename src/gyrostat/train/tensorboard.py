"""Metrics for TensorBoard: the event file of a run is written anew from its history, so that a resumed run has one curve."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from .._errors import missing_extra


class TensorBoard:
    """Writes the numbers of each epoch, and of each recorded stretch of steps, under ``FOLDER/tensorboard``.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_extra("tensorboard", "tensorboard", "logging for TensorBoard") from error
        place = folder / "tensorboard"
        shutil.rmtree(place, ignore_errors=True)
        self._writer = SummaryWriter(str(place))

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Add rows: those with ``step`` are counted in steps, the others in epochs."""
        for row in rows:
            kind = "step" if "step" in row else "epoch"
            for key, value in row.items():
                if key not in ("step", "epoch") and isinstance(value, (int, float)):
                    self._writer.add_scalar(f"{kind}/{key}", value, row[kind])
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
