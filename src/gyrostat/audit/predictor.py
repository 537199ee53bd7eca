"""One way to ask a model: any callable, ``nn.Module`` or ONNX session becomes ``x -> (classes, confidences, scores)``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._errors import ArgumentError, GyrostatError, ModelError, NonFiniteError

OUTPUTS = ("auto", "logits", "probs", "labels")


class Predictor:
    """Asks a model for classes and confidences, one batch after another, without leaving a trace in it.

    Args:
        model: ``nn.Module``, onnxruntime session, or a callable from a tensor ``(N, ...)`` to scores ``(N, K)``, or to
            labels ``(N,)``. Of several answers the first counts, of named ones ``logits``.
        preprocess: Applied to each batch before the model: normalisation.
        outputs: What comes back: ``"logits"``, ``"probs"``, ``"labels"``, or ``"auto"``, decided on the first batch.
        temperature: Logits are divided by it.
        device: Where the batches go; by default where the module is.
        step: Of answers ``(N, T, K)``, the step that counts; -1 is the last.
    """

    def __init__(
        self,
        model: Any,
        *,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        outputs: str = "auto",
        temperature: float = 1.0,
        device: Any = None,
        step: int | None = None,
    ) -> None:
        if not (callable(model) or hasattr(model, "run")):
            raise ArgumentError(f"titrate: the model must be callable or an ONNX session, got {type(model).__name__}")
        self.preprocess, self.outputs, self.temperature, self.step = preprocess, outputs, temperature, step
        self.classes: int | None = None
        self.model: Any = model
        like = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        self._device = torch.device(device) if device is not None else like.device if like is not None else None
        self._dtype = like.dtype if like is not None and like.is_floating_point() else torch.float32
        self._input = self.model.get_inputs()[0].name if hasattr(model, "get_inputs") else None

    @contextmanager
    def session(self) -> Iterator[Predictor]:
        """Evaluation mode without gradients, each submodule's own flag restored afterwards."""
        flags = {}
        if isinstance(self.model, nn.Module):
            flags = {m: m.training for m in self.model.modules()}
            self.model.eval()
        try:
            # a model that draws random numbers must not shift anybody else's stream
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                yield self
        finally:
            for module, flag in flags.items():
                module.training = flag

    def ask(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Classes ``(N,)``, confidences ``(N,)``, scores ``(N, K)`` before softmax; ties go to the lowest class.

        A model that answers labels has no scores.
        """
        if self.preprocess is not None:
            x = self.preprocess(x)
        try:
            scores = self._call(x)
        except GyrostatError:
            raise
        except Exception as error:  # somebody else's code: whatever it raises means that it cannot be asked
            sentence = " ".join(str(error).split())[:200] or type(error).__name__
            raise ModelError(f"the model failed on inputs of shape {tuple(x.shape)}: {sentence}") from error
        if self.step is not None:
            scores = self._at_step(scores)
        if scores.ndim == 1 or self.outputs == "labels":
            return self._labels(scores, len(x))
        if scores.ndim != 2 or len(scores) != len(x) or scores.shape[1] < 2:
            advice = ""
            if scores.ndim == 3:
                advice = "; for an answer at every step say which counts, as step=-1 (--step=-1)"
            elif scores.ndim == 2 and scores.shape[1] == 1:
                advice = "; for one score of two classes hand gyrostat.scan a function that answers both, as (1 - p, p)"
            raise ModelError(
                f"titrate: the model must answer (N, K) scores with K >= 2, or (N,) labels; "
                f"{len(x)} inputs gave {tuple(scores.shape)}{advice}"
            )
        scores = scores.to(torch.float64)  # (N, K)
        if not torch.isfinite(scores).all():
            raise NonFiniteError("titrate: the model answered NaN or Inf; check preprocess= and the input range clip=")
        if self.outputs == "auto":
            sums = bool((scores >= 0).all()) and bool(((scores.sum(1) - 1).abs() < 1e-3).all())
            self.outputs = "probs" if sums else "logits"
        self.classes = scores.shape[1]
        if self.outputs == "probs":
            if bool((scores < -1e-6).any()) or bool(((scores.sum(1) - 1).abs() > 1e-2).any()):
                raise ArgumentError(
                    "titrate: outputs='probs', but the scores are not probabilities; use outputs='logits'"
                )
            scores = scores.clamp_min(1e-45).log()  # what float32 can hold
        probabilities = torch.softmax(scores / self.temperature, 1)  # (N, K)
        confidence = probabilities.amax(1)
        # argmax leaves ties open; the first maximum is the same on every machine
        first = (probabilities == confidence[:, None]).to(torch.int8).argmax(1)
        return first, confidence, scores

    def _call(self, x: Tensor) -> Tensor:
        if self._input is not None:
            wanted = np.float16 if "float16" in self.model.get_inputs()[0].type else np.float32
            found: Any = self.model.run(None, {self._input: x.cpu().numpy().astype(wanted)})
        else:
            found = self.model(x.to(self._device, self._dtype) if self._device is not None else x.to(self._dtype))
        if isinstance(found, Mapping):
            if "logits" not in found:
                raise ModelError(
                    f"titrate: the model answered {sorted(map(str, found))[:5]} by name; hand gyrostat.scan a function that "
                    "answers the scores alone"
                )
            found = found["logits"]
        if isinstance(found, (tuple, list)):
            found = found[0]
        return torch.as_tensor(found if isinstance(found, Tensor) else np.asarray(found)).detach().cpu()

    def _at_step(self, scores: Tensor) -> Tensor:
        if scores.ndim != 3 or not -scores.shape[1] <= int(self.step or 0) < scores.shape[1]:
            raise ModelError(
                f"titrate: step={self.step}, but the model answers {tuple(scores.shape)}, not (N, T, K) with it"
            )
        return scores[:, self.step]

    def _labels(self, labels: Tensor, n: int) -> tuple[Tensor, Tensor, None]:
        if self.outputs not in ("auto", "labels") or labels.shape != (n,):
            raise ModelError(f"titrate: outputs={self.outputs!r}, but {n} inputs gave shape {tuple(labels.shape)}")
        if labels.is_floating_point() and not bool((labels == labels.round()).all()):
            raise ModelError("titrate: one number per input must be a class label; this is not a whole number")
        whole = labels.to(torch.int64)
        if bool((whole < 0).any()):
            raise ModelError("titrate: class labels must be >= 0")
        self.outputs = "labels"
        # a model that gives labels only is sure of every one of them
        return whole, torch.ones(n, dtype=torch.float64), None


def weight_count(model: Any) -> int | None:
    """How many weights a model has, where that is known: of an ``nn.Module``, and of what ``load_model`` read."""
    if isinstance(model, nn.Module):
        return sum(p.numel() for p in model.parameters())
    known = getattr(model, "weights", None)
    return known if isinstance(known, int) else None
