r"""Fine-tuning a trained network on few labels: a new head, some parts that move, the rest held.

    θ = (θ_frozen, θ_moving, W_new),     min over θ_moving, W_new of  (1/n) Σ_i CE(f_θ(x_i), y_i) + (l2/2) ‖θ_moving, W_new‖²

Nothing moves but the new head and ``trainable`` parts, or the ``last_blocks``. ``batch_norm="freeze"`` holds the running
statistics of frozen layers as well; ``"adapt"`` lets them follow the target data, as in the paper's runs.

Source: Adversarially-Trained Deep Nets Transfer Better, arXiv:2007.05869.
Differs from the released code: parts are chosen by the path of a module, not by a piece of its name (which fits one
architecture); the head starts as torch starts it, not from N(0, 1), which makes huge logits and penalises sources with
large features (``head_init="normal"``); every class is in the subset.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _NormBase

from .._checks import Integer, OneOf, Real, check
from .._errors import ArgumentError, NonFiniteError
from .._results import Result
from .._rng import torch_stream
from .parts import below, head_inputs, head_name, labelled, trainable_parts

HEAD_INITS = ("default", "normal", "zero")
BATCH_NORMS = ("freeze", "adapt")
SCHEDULES = ("constant", "thirds")
_RULES = {
    "last_blocks": Integer(low=0),
    "batch_norm": OneOf(BATCH_NORMS),
    "head_init": OneOf(HEAD_INITS),
    "schedule": OneOf(SCHEDULES),
    "epochs": Integer(low=0),
    "batch_size": Integer(low=1),
    "lr": Real(low=0, closed="neither"),
    "momentum": Real(low=0, high=1, closed="left"),
    "weight_decay": Real(low=0),
    "num_classes": Integer(low=2, optional=True),
}
_WHERE = "fine_tune"


@dataclass(frozen=True)
class FineTuned(Result):
    """A fine-tuned network and what moved in it.

    Attributes:
        model: The network, in evaluation mode; the source is as it was.
        head: Name of the new head.
        trainable: Names of the parameters that moved.
        n_trainable: Numbers in them.
        n_parameters: Numbers in the whole network.
        history: Training loss of each epoch.
    """

    model: nn.Module = field(repr=False)
    head: str
    trainable: tuple[str, ...]
    n_trainable: int
    n_parameters: int
    history: tuple[float, ...]


def stay_still(module: nn.Module, inputs: Any) -> None:
    """A forward pre-hook: this normalisation layer keeps its statistics whatever mode the network is in."""
    module.training = False


def prepare(
    model: nn.Module,
    num_classes: int,
    *,
    trainable: str | Sequence[str] | None = None,
    last_blocks: int = 0,
    batch_norm: str = "freeze",
    head: str | None = None,
    head_init: str = "default",
    seed: int = 0,
) -> FineTuned:
    """A copy of the network with a new head and the frozen parts marked, before any step.

    For a training loop of your own: ``requires_grad`` is set, and with ``batch_norm="freeze"`` the statistics of frozen
    layers hold across ``model.train()``. Arguments as in :func:`fine_tune`.
    """
    check(_RULES, locals(), _WHERE)
    name = head_name(model, head, _WHERE)
    parts = trainable_parts(model, trainable, last_blocks, name, _WHERE)
    ours = copy.deepcopy(model)
    old: Any = ours.get_submodule(name)
    new: Any = nn.utils.skip_init(
        nn.Linear, old.in_features, num_classes, old.bias is not None, device=old.weight.device, dtype=old.weight.dtype
    )
    _start(new, head_init, seed)
    if name:
        parent, _, last = name.rpartition(".")
        setattr(ours.get_submodule(parent), last, new)
    else:
        ours = new
    for key, parameter in ours.named_parameters():
        parameter.requires_grad_(below(key, parts))
    for key, module in ours.named_modules():
        if isinstance(module, _NormBase):
            for number, hook in list(module._forward_pre_hooks.items()):
                if hook is stay_still:  # of an earlier fine-tuning
                    del module._forward_pre_hooks[number]
            if batch_norm == "freeze" and not below(key, parts):
                module.register_forward_pre_hook(stay_still)
    moving = {key: p.numel() for key, p in ours.named_parameters() if p.requires_grad}
    total = sum(p.numel() for p in ours.parameters())
    return FineTuned(ours.eval(), name, tuple(moving), sum(moving.values()), total, ())


def _start(head: nn.Linear, how: str, seed: int) -> None:
    # drawn on the CPU, so that every device starts alike
    stream, bound = torch_stream(seed, "head"), head.in_features**-0.5
    weight, bias = torch.zeros(head.out_features, head.in_features), torch.zeros(head.out_features)
    if how == "default":  # torch's own law, from a stream of its own
        weight.uniform_(-bound, bound, generator=stream)
        bias.uniform_(-bound, bound, generator=stream)
    elif how == "normal":
        weight.normal_(generator=stream)
    with torch.no_grad():
        head.weight.copy_(weight)
        if head.bias is not None:
            head.bias.copy_(bias)


def fine_tune(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    *,
    trainable: str | Sequence[str] | None = None,
    last_blocks: int = 0,
    batch_norm: str = "freeze",
    head: str | None = None,
    head_init: str = "default",
    num_classes: int | None = None,
    epochs: int = 60,
    batch_size: int = 128,
    lr: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = "constant",
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> FineTuned:
    """Fine-tune a copy of a classifier on new classes by SGD; the given model is left as it was.

    Args:
        model: The source: any module that ends in a linear layer and returns logits.
        data: ``(x, y)`` of the target, labels ``0 .. num_classes - 1``.
        trainable: Names of parts that move beside the head, ``"head"``, or ``"all"``.
        last_blocks: Or how many of the last blocks move (:func:`gyrostat.transfer.parts.blocks`).
        batch_norm: ``"freeze"`` holds the frozen layers' statistics, and other frozen layers such as dropout in
            evaluation mode; ``"adapt"`` lets them follow the target (the paper's runs).
        head: Name of the head; the last linear layer when left out.
        head_init: ``"default"`` (torch's), ``"normal"`` (N(0, 1), the paper's) or ``"zero"``.
        num_classes: Outputs of the new head; the largest label plus one when left out.
        epochs: Passes over the data; 0 only prepares.
        batch_size: Samples per step.
        lr: Learning rate.
        momentum: Momentum.
        weight_decay: The l2 of the objective: what :func:`influence_scores` wants to know.
        schedule: ``"constant"``, or ``"thirds"``: a tenth after each third (the paper's).
        seed: Seed of the head and of the order.
        on_epoch: Called with the epoch, from 1, and its loss.

    Returns:
        A :class:`FineTuned`; its ``model`` is in evaluation mode.

    Raises:
        ArgumentError: Unknown parts (the nearest name is suggested), labels outside the classes, inputs that do not fit.
        NonFiniteError: The loss became NaN or Inf.

    Source: arXiv:2007.05869.

    Example:
        >>> import torch
        >>> source = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 5))
        >>> tuned = fine_tune(source, (torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])), epochs=2)
        >>> tuned.trainable, tuned.n_trainable, tuned.n_parameters
        (('2.weight', '2.bias'), 27, 67)
    """
    check(_RULES, locals(), _WHERE)
    x, y = labelled(data, _WHERE)
    classes = int(y.max()) + 1 if num_classes is None else num_classes
    if int(y.max()) >= classes:
        raise ArgumentError(f"{_WHERE}: data has the label {int(y.max())}, but num_classes is {classes}")
    ready = prepare(
        model, max(classes, 2), trainable=trainable, last_blocks=last_blocks, batch_norm=batch_norm, head=head,
        head_init=head_init, seed=seed,
    )  # fmt: skip
    ours, moving = ready.model, [p for p in ready.model.parameters() if p.requires_grad]
    only_head = all(below(n, [ready.head]) for n in ready.trainable)
    features, logits = head_inputs(ours, ready.head, x[: None if only_head else 2], 256, _WHERE)
    if logits.shape[1] != max(classes, 2):
        raise ArgumentError(f"{_WHERE}: the model returns {logits.shape[1]} logits for {classes} classes")
    # frozen features are computed once
    inputs, net = (features, ours.get_submodule(ready.head)) if only_head and batch_norm == "freeze" else (x, ours)
    optimizer = torch.optim.SGD(moving, lr, momentum=momentum, weight_decay=weight_decay)
    history = []
    for epoch in range(epochs):
        net.train()
        if batch_norm == "freeze":
            _hold(ours, ready.trainable)
        for group in optimizer.param_groups:
            group["lr"] = lr * (0.1 ** (epoch // max(epochs // 3, 1)) if schedule == "thirds" else 1.0)
        history.append(_one_epoch(net, optimizer, inputs, y, batch_size, torch_stream(seed, "order", epoch), epoch))
        if on_epoch:
            on_epoch(epoch + 1, history[-1])
    return FineTuned(ours.eval(), ready.head, ready.trainable, ready.n_trainable, ready.n_parameters, tuple(history))


def _hold(model: nn.Module, trainable: Sequence[str]) -> None:
    """Evaluation mode for every module with nothing trainable below, above or in it."""
    homes = {name.rpartition(".")[0] for name in trainable}
    for name, module in model.named_modules():
        if not below(name, homes - {""}) and not any(below(home, [name]) for home in homes):
            module.training = False


def _one_epoch(
    net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, batch_size: int, stream: Any, epoch: int
) -> float:
    order = torch.randperm(len(y), generator=stream).to(y.device)
    pieces = list(order.split(batch_size))
    if len(pieces) > 1 and len(pieces[-1]) == 1:  # batch normalisation cannot normalise a single sample
        pieces[-2:] = [torch.cat(pieces[-2:])]
    total = 0.0
    for rows in pieces:
        try:
            loss = cross_entropy(net(x[rows]), y[rows])
        except (RuntimeError, ValueError) as error:
            raise ArgumentError(f"{_WHERE}: the data do not fit: {' '.join(str(error).split())[:200]}") from error
        if not torch.isfinite(loss):
            raise NonFiniteError(f"{_WHERE}: the loss is {float(loss.detach())} in epoch {epoch + 1}; lower lr")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += float(loss.detach()) * len(rows)
    return total / len(y)
