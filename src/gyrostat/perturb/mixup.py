r"""Noisy Feature Mixup around any model: one layer per batch is mixed and perturbed, by hooks.

    f = f_k ∘ g_k,  k uniform over the layers;   h = g_k(x),  m = λ h + (1 − λ) h[π]
    h̃ = (1 + σ_m b_m U) ⊙ m + σ_a b_a Z;          loss = λ ℓ(f_k(h̃), y) + (1 − λ) ℓ(f_k(h̃), y[π])

    baseline      layers input,  α = 0, σ = 0         noise          input or layers, α = 0
    mixup         layers input,  σ = 0                noisy mixup    layers input
    manifold      σ = 0                               NFM            all of it

Source: Noisy Feature Mixup, arXiv:2110.02180; mixup, arXiv:1710.09412; manifold mixup, arXiv:1806.05236.
Differs from the released code: the model is not rewritten; α = 0 keeps the noise; λ may be one per sample; noise may be
relative to the scale of a feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import Boolean, OneOf, Real, check
from .._errors import ArgumentError, ArgumentTypeError, HookError, ShapeError
from .draw import MixDraw, noisy_mix, sample_draw
from .parts import Select, change, named_parts, resolve, tensors_of
from .target import MixedTarget

_RULES = {
    "additive": Real(low=0),
    "multiplicative": Real(low=0),
    "prob": Real(0, 1),
    "per_sample": Boolean(),
    "noise_scale": OneOf(("absolute", "relative")),
    "on_reuse": OneOf(("error", "first")),
}
# published settings: whether features are mixed, and α, σ_a, σ_m
METHODS: dict[str, tuple[bool, float, float, float]] = {
    "baseline": (False, 0.0, 0.0, 0.0),
    "mixup": (False, 1.0, 0.0, 0.0),
    "manifold": (True, 1.0, 0.0, 0.0),
    "noisy-mixup": (False, 1.0, 0.2, 0.1),
    "noise": (True, 0.0, 0.4, 0.2),
    "nfm": (True, 1.0, 0.4, 0.2),
}


@dataclass
class _Pass:
    """One forward pass and, later, its recomputation."""

    draw: MixDraw
    size: int
    calls: int = 0
    replay: bool = False


class NoisyFeatureMixup:
    """Calls a model on a mixed and perturbed batch; in evaluation mode it is the plain model.

    The model keeps its forward signature, its ``state_dict`` and its speed; called directly it is unchanged. Hooks stay
    on the named submodules until :meth:`close`, or the end of a ``with`` block. Wrap the outermost model, after
    ``DistributedDataParallel``, ``accelerator.prepare`` or ``torch.compile``.

    Args:
        model: Any module.
        layers: Names from ``model.named_modules()`` and ``"input"``; one of them is drawn per batch. The paper's choice
            is the input and the outputs of all stages but the last. Integer inputs (tokens) cannot be mixed: name the
            embedding instead.
        alpha: λ ~ Beta(α, α), or (α, β); 0 leaves the batch unmixed (λ = 1), the noise stays. Small models often want
            0.1 to 0.4.
        additive: σ_a. The noise itself has the standard deviation 0.33 σ_a, for features of unit size.
        multiplicative: σ_m, likewise 0.19 σ_m relative to the feature.
        prob: Chance that a batch is touched at all; an attribute, to be set to 0 for the last epochs.
        per_sample: One λ per sample instead of one per batch.
        layer_probs: Chances of the layers, equal when left out.
        noise_scale: ``"relative"``: σ_a in units of the standard deviation of the mixed feature.
        batch_dim: Where the samples are: 1 for sequences with the time first; or one entry per layer.
        select: Which part of a tuple or mapping is mixed: an index, a key, or several; or a mapping from layer to these.
        on_reuse: A submodule that runs several times in one pass (a recurrent cell) is an ``"error"``, or is mixed the
            ``"first"`` time.
        generator: For all draws; torch's own stream when left out, as for dropout.

    Raises:
        ArgumentError: An unknown layer (the nearest name is suggested), α < 0, a probability outside [0, 1].
        ArgumentTypeError: No module, or ``DataParallel``, whose replicas lose the hooks.

    Source: arXiv:2110.02180.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> nfm = NoisyFeatureMixup(model, layers=["input", "1"], alpha=1.0, additive=0.4, multiplicative=0.2)
        >>> x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> logits, target = nfm(x, y)
        >>> target.loss(logits).backward()
        >>> logits, target = nfm(x, y, draw=MixDraw("1", torch.tensor(0.75), torch.arange(5, -1, -1)))
        >>> target.soft(3)[0]
        tensor([0.7500, 0.0000, 0.2500])
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] = ("input",),
        alpha: float | tuple[float, float] = 1.0,
        additive: float = 0.4,
        multiplicative: float = 0.2,
        *,
        prob: float = 1.0,
        per_sample: bool = False,
        layer_probs: Sequence[float] | None = None,
        noise_scale: str = "absolute",
        batch_dim: int | Mapping[str, int] = 0,
        select: Select | Mapping[str, Select] = None,
        on_reuse: str = "error",
        generator: torch.Generator | None = None,
    ) -> None:
        where = "NoisyFeatureMixup"
        check(_RULES, locals(), where)
        if not isinstance(model, nn.Module):
            raise ArgumentTypeError(f"{where}: model must be a torch.nn.Module, got {type(model).__name__}")
        if isinstance(model, nn.DataParallel):
            raise ArgumentTypeError(f"{where}: model must not be DataParallel; use DistributedDataParallel")
        if isinstance(layers, str) or not layers or len(set(layers)) != len(layers):
            raise ArgumentError(f"{where}: layers must be a list of different names, at least one, got {layers!r}")
        if isinstance(alpha, tuple) and len(alpha) != 2:
            raise ArgumentError(f"{where}: alpha must be a number or a pair (alpha, beta), got {alpha!r}")
        for value in alpha if isinstance(alpha, tuple) else (alpha,):
            Real(low=0, closed="neither" if isinstance(alpha, tuple) else "both").check("alpha", value, where)
        if layer_probs is not None and (
            len(layer_probs) != len(layers) or min(layer_probs) < 0 or not 0 < sum(layer_probs) < float("inf")
        ):
            raise ArgumentError(
                f"{where}: layer_probs must be {len(layers)} numbers >= 0, not all 0, got {layer_probs!r}"
            )
        parts = resolve(model, layers, where)
        self.model, self.layers = model, tuple(layers)
        self.alpha, self.additive, self.multiplicative = alpha, float(additive), float(multiplicative)
        self.prob, self.per_sample, self.layer_probs = prob, per_sample, layer_probs
        self.noise_scale, self.batch_dim, self.select = noise_scale, batch_dim, select
        self.on_reuse, self.generator = on_reuse, generator
        self._run: _Pass | None = None
        # a partial of a bound method, unlike a lambda, leaves the model picklable
        self._handles = [m.register_forward_hook(partial(self._hook, name)) for name, m in parts.items()]

    @classmethod
    def named(cls, method: str, model: nn.Module, layers: Sequence[str], **settings: Any) -> NoisyFeatureMixup:
        """A published method: baseline, mixup, manifold, noisy-mixup, noise or nfm; ``settings`` override its own.

        Args:
            method: Its name.
            model: Any module.
            layers: Used by the methods that touch features.
            settings: Keyword arguments of the class.
        """
        OneOf(tuple(METHODS)).check("method", method, "NoisyFeatureMixup.named")
        features, alpha, additive, multiplicative = METHODS[method]
        own = {"alpha": alpha, "additive": additive, "multiplicative": multiplicative}
        return cls(model, layers if features else ("input",), **{**own, **settings})

    @staticmethod
    def suggest(model: nn.Module) -> list[str]:
        """Names worth considering as layers: the children of the model, without the last one."""
        return [name for name in named_parts(model) if "." not in name][:-1]

    def __call__(
        self, x: Any, y: Tensor, *args: Any, draw: MixDraw | None = None, **kwargs: Any
    ) -> tuple[Any, MixedTarget]:
        """The model's output for the mixed batch, and the target it is to be held against.

        Args:
            x: What the model takes first.
            y: Targets ``(B, ...)``: classes, numbers, several labels.
            args: Further arguments of the model, passed on.
            draw: A draw of your own.
            kwargs: Passed on likewise.

        Raises:
            HookError: The drawn layer did not run, or ran more than once.
            ShapeError: A feature whose batch dimension is not that of ``y``.
            ArgumentTypeError: A feature or input of integers.
        """
        if not isinstance(y, Tensor) or y.ndim == 0:
            raise ArgumentTypeError("NoisyFeatureMixup: y must be a tensor with one entry per sample")
        self._run = None
        if not self.model.training:
            return self.model(x, *args, **kwargs), MixedTarget(y, y)
        if draw is None:
            draw = self._draw(len(y))
        elif draw.layer not in self.layers:
            raise ArgumentError(f"NoisyFeatureMixup: draw: its layer {draw.layer!r} is none of {self.layers}")
        if draw.perm is not None and draw.perm.shape != y.shape[:1]:
            raise ShapeError(f"NoisyFeatureMixup: draw: perm must have {len(y)} entries, got {tuple(draw.perm.shape)}")
        run = _Pass(draw, len(y))
        if draw.layer == "input":
            run.calls, x = 1, self._apply(x, run)
        else:
            self._run = run
        try:
            output = self.model(x, *args, **kwargs)
        finally:
            self._run = None
        self._check_calls(run)
        for tensor in tensors_of(output):
            if tensor.requires_grad and draw.layer != "input":
                tensor.register_hook(partial(self._begin_backward, run))
        if draw.lam is None or draw.perm is None:
            return output, MixedTarget(y, y)
        lam = float(draw.lam) if draw.lam.ndim == 0 else draw.lam
        return output, MixedTarget(y, y[draw.perm.to(y.device)], lam)

    def close(self) -> None:
        """Take the hooks off."""
        self._run = None
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> NoisyFeatureMixup:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None}

    def _draw(self, size: int) -> MixDraw:
        if self.prob < 1:
            device = self.generator.device if self.generator is not None else torch.device("cpu")
            if float(torch.rand((), generator=self.generator, device=device)) >= self.prob:
                return MixDraw("input")
        return sample_draw(
            size,
            self.layers,
            alpha=self.alpha,
            additive=self.additive,
            multiplicative=self.multiplicative,
            per_sample=self.per_sample,
            layer_probs=self.layer_probs,
            generator=self.generator,
        )

    def _hook(self, name: str, module: nn.Module, args: Any, output: Any) -> Any:
        run = self._run
        if run is None or run.draw.layer != name:
            return None
        if not run.replay:
            run.calls += 1
            if run.calls > 1:
                return None
        elif not torch.compiler.is_compiling() and torch._C._current_graph_task_id() == -1:
            return None  # left over from a backward pass that was interrupted
        elif run.calls > 1:
            raise HookError(
                f"NoisyFeatureMixup: layer {name!r} ran several times, and which one is recomputed is unknown"
            )
        return self._apply(output, run)

    def _begin_backward(self, run: _Pass, gradient: Tensor) -> None:
        # Activation checkpointing runs submodules again during this backward pass; they must see this pass's draw.
        run.replay, self._run = True, run
        torch.autograd.Variable._execution_engine.queue_callback(self._end_backward)

    def _end_backward(self) -> None:
        self._run = None

    def _apply(self, value: Any, run: _Pass) -> Any:
        draw = run.draw
        if draw.lam is None and draw.beta_add is None and draw.beta_mult is None:
            return value
        where = f"NoisyFeatureMixup: layer {draw.layer!r}"
        dim = self.batch_dim if isinstance(self.batch_dim, int) else self.batch_dim.get(draw.layer, 0)
        select = self.select.get(draw.layer) if isinstance(self.select, Mapping) else self.select

        def act(h: Tensor) -> Tensor:
            if not h.is_floating_point():
                raise ArgumentTypeError(
                    f"{where}: {h.dtype} cannot be mixed; convert images to floating point, and name the embedding "
                    "of tokens as the layer"
                )
            if not -h.ndim <= dim < h.ndim or h.shape[dim] != run.size:
                raise ShapeError(
                    f"{where}: its shape {tuple(h.shape)} has not the {run.size} samples of y in dimension {dim}; "
                    "set batch_dim, or select"
                )
            return noisy_mix(
                h,
                draw,
                additive=self.additive,
                multiplicative=self.multiplicative,
                batch_dim=dim,
                relative=self.noise_scale == "relative",
            )

        return change(value, select, act, where)

    def _check_calls(self, run: _Pass) -> None:
        name = run.draw.layer
        if run.calls == 0:
            raise HookError(f"NoisyFeatureMixup: layer {name!r} did not run in this pass; leave it out of layers")
        if run.calls > 1 and self.on_reuse == "error":
            raise HookError(
                f"NoisyFeatureMixup: layer {name!r} ran {run.calls} times in one pass; name the module around it, "
                "or on_reuse='first'"
            )
