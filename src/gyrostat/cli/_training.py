"""What the verbs that train share: the run folder in one or several processes, the progress line, the last words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def open_run(out: Path, force: bool, device: str | None, mixed_precision: str, tensorboard: bool) -> tuple[Path, bool]:
    """The run folder, cleared by the first process before any other looks into it; and whether this is the first."""
    from .._errors import missing_extra
    from ..train.devices import open_accelerator
    from ._shared import out_folder

    if tensorboard:
        import importlib.util

        if importlib.util.find_spec("tensorboard") is None:
            raise missing_extra("tensorboard", "tensorboard", "--tensorboard")
    accelerator = open_accelerator(device, mixed_precision)
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            out_folder(out, force, "result.json")
    return out, accelerator.is_main_process


class Watch:
    """The progress line of a training."""

    def __init__(self, progress: Any, label: str, epochs: int) -> None:
        self._progress, self._epochs = progress, epochs
        self._task = progress.add_task(label, total=None)
        self._last = ""

    def step(self, run: Any, steps: int) -> None:
        """Called after each step."""
        words = f"epoch {run.epoch + 1}/{self._epochs}  step {run.step}/{steps}  loss {run.loss_sum / run.step:.4f}"
        self._progress.update(self._task, description=words + self._last)

    def epoch(self, row: dict[str, Any]) -> None:
        """Called after each epoch."""
        self._last = f"  validation {row['valid_score']:.4f} after epoch {row['epoch']}"
        if not self._progress.console.is_terminal:
            self._progress.console.print(
                f"epoch {row['epoch']}/{self._epochs}  loss {row['train_loss']:.4f}  validation {row['valid_score']:.4f}"
            )


@contextmanager
def watch(label: str, epochs: int, quiet: bool) -> Iterator[Watch]:
    """The progress line on stderr while a training lasts; one line per epoch where stderr is a file."""
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from ._shared import stderr

    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=stderr, disable=quiet, transient=True) as progress:
        watched = Watch(progress, label, epochs)
        yield watched


def leave() -> None:
    """Part with the other processes, if there are any."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
