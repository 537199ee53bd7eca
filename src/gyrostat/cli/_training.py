"""What the verbs that train share: the run folder in one or several processes, the progress line, the last words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def open_run(
    out: Path, force: bool, device: str | None, mixed_precision: str, tensorboard: bool, *inputs: str | Path | None
) -> tuple[Path, bool]:
    """The run folder, cleared by the first process before any other looks into it; and whether this is the first."""
    from accelerate.utils import broadcast_object_list

    from .._errors import ArgumentError, missing_extra
    from ..train.devices import open_accelerator
    from ._shared import out_folder

    if tensorboard:
        import importlib.util

        if importlib.util.find_spec("tensorboard") is None:
            raise missing_extra("tensorboard", "tensorboard", "--tensorboard")
    accelerator = open_accelerator(device, mixed_precision)
    refusal: list[str | None] = [None]
    if accelerator.is_main_process:
        try:
            out_folder(out, force, "result.json", *inputs)
        except ArgumentError as error:
            refusal = [str(error)]
    if accelerator.num_processes > 1:
        # the others wait for the answer: they may look into the folder only once it is cleared
        broadcast_object_list(refusal)
        if refusal[0] and not accelerator.is_main_process:
            leave()
            raise SystemExit(2)
    if refusal[0]:
        leave()
        raise ArgumentError(refusal[0])
    return out, accelerator.is_main_process


def strategy_of(strategy: str, adversarial: str | None, data: Any) -> Any:
    """The strategy of a training: by name, or the short form of an adversarial one."""
    import numpy as np

    from .._errors import ArgumentError
    from ..train.strategy import make_strategy
    from ..transfer.adversarial import AdversarialTraining

    if adversarial is None:
        return make_strategy(strategy)
    if strategy != "plain":
        raise ArgumentError("--adversarial is a strategy of its own; leave out --strategy")
    sample = np.asarray(data.x[data.split["train"][:256]])
    if sample.dtype.kind != "f":
        raise ArgumentError(f"--adversarial: {data.name} holds {sample.dtype} numbers, which cannot be perturbed")
    pixels = bool(sample.min() >= 0 and sample.max() <= 1)
    return AdversarialTraining.parse(adversarial, (0.0, 1.0) if pixels else None)


def rehearse(data: Any, net: Any, strategy: Any, seed: int) -> None:
    """Losses of a fresh network on two examples, before a folder is made or cleared: a strategy refuses here or never."""
    import torch

    from .._rng import torch_stream
    from ..data.batches import Batches
    from ..train.devices import own_random_stream
    from ..train.task import Task

    if strategy.name == "plain":
        return
    batch = next(iter(Batches(data, "train", 2).epoch()))
    with own_random_stream(torch.device("cpu")):
        model = net.build()
        for draw in range(4):  # a strategy may draw what it does: another layer, another start
            strategy(model, batch, Task(data.task), generator=torch_stream(seed, "rehearsal", draw))


def robust_words(result: dict[str, Any]) -> str:
    """The end of the sentence about an adversarial training."""
    if "robust_score" not in result:
        return ""
    return f", robust {result['robust_score']:.4f} ({result['robust_attack']})"


class Watch:
    """A progress line that follows the steps on a terminal; one line per epoch where stderr is a file."""

    def __init__(self, epochs: int, progress: Any, task: Any) -> None:
        self._epochs, self._progress, self._task = epochs, progress, task
        self._last = ""

    def step(self, run: Any, steps: int) -> None:
        """Called after each step."""
        if self._progress is not None:
            words = f"epoch {run.epoch + 1}/{self._epochs}  step {run.step}/{steps}  loss {run.loss_sum / run.step:.4f}"
            self._progress.update(self._task, description=words + self._last)

    def epoch(self, row: dict[str, Any]) -> None:
        """Called after each epoch."""
        self._last = f"  validation {row['valid_score']:.4f} after epoch {row['epoch']}"
        if self._progress is None:
            from ._shared import stderr

            stderr.print(
                f"epoch {row['epoch']}/{self._epochs}  loss {row['train_loss']:.4f}{self._last.split(' after')[0]}"
            )


class Silence:
    """The same without a word."""

    def step(self, run: Any, steps: int) -> None:
        """Called after each step."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Called after each epoch."""


@contextmanager
def watch(label: str, epochs: int, quiet: bool) -> Iterator[Watch | Silence]:
    """What a training shows on stderr while it lasts."""
    from ._shared import stderr

    if quiet:
        yield Silence()
    elif not stderr.is_terminal:
        stderr.print(label)
        yield Watch(epochs, None, None)
    else:
        from rich.progress import Progress, TextColumn, TimeElapsedColumn

        with Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=stderr) as progress:
            yield Watch(epochs, progress, progress.add_task(label, total=None))


def leave() -> None:
    """Part with the other processes, if there are any."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
