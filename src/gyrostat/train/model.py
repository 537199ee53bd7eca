"""A recurrent layer with a linear head, for labels, targets, or targets at every step."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .._errors import ArgumentError
from ..data.sequences import SequenceData
from ..recurrent.cell import cell_names, get_cell
from ..recurrent.layer import Recurrent

PEERS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def model_names() -> list[str]:
    """All models that can be trained: the registered cells and torch's own."""
    return sorted([*cell_names(), *PEERS])


@dataclass(frozen=True)
class ModelConfig:
    """What it takes to build a :class:`SequenceModel` again: sizes, kind, options of the cell."""

    model: str
    input_size: int
    output_size: int
    task: str
    hidden_size: int = 64
    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def for_data(
        cls, model: str, data: SequenceData, *, options: dict[str, Any] | None = None, **sizes: Any
    ) -> ModelConfig:
        """The configuration for one data set, with the model's usual options for its length filled in."""
        own = {**usual_options(model, data.x.shape[1]), **(options or {})}
        return cls(model, data.n_features, data.n_outputs, data.task, options=own, **sizes)

    @property
    def label(self) -> str:
        """The name of the kind."""
        return self.model

    def build(self) -> SequenceModel:
        """The network with fresh weights."""
        return SequenceModel(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def facts(self) -> dict[str, Any]:
        """What a run directory records of it."""
        return {"model": self.to_dict()}


def usual_options(model: str, length: int) -> dict[str, Any]:
    """Options that suit sequences of ``length`` steps, from the released settings of the papers."""
    dt = 0.1 if length <= 100 else 0.03
    if model == "lipschitz":
        return {"dt": dt}
    if model == "noisy":
        # the released models learn one step per unit; the two noises are the paper's "high noise" row in its released form
        return {
            "dt": dt,
            "learn_dt": True,
            "additive_noise": 0.05,
            "multiplicative_noise": 0.02,
            "noise_form": "released",
        }
    if model in ("antisymmetric", "residual"):
        return {"dt": dt}
    return {}


class SequenceModel(nn.Module):
    """Recurrent layer and linear head; reads the last valid step, or every step for ``predict`` and ``tag``.

    Args:
        config: Sizes, kind and options.

    Shapes:
        ``x (B, T, F)`` and ``lengths (B,)`` or ``None`` to ``(B, K)``, or ``(B, T, K)`` for ``task="predict"``.

    Raises:
        ArgumentError: There is no such model, or it has no such option.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        shared = {
            "num_layers": config.num_layers, "batch_first": True, "dropout": config.dropout,
            "bidirectional": config.bidirectional,
        }  # fmt: skip
        if config.model in PEERS:
            if config.options:
                raise ArgumentError(
                    f"{config.model} has no option {sorted(config.options)[0]!r}; torch's layers take none"
                )
            self.layer: nn.Module = PEERS[config.model](config.input_size, config.hidden_size, **shared)
        else:
            kind = get_cell(config.model)
            accepted = _options_of(kind)
            for key in config.options:
                if key not in accepted:
                    raise ArgumentError(f"{config.model} has no option {key!r}; it has {', '.join(sorted(accepted))}")
            self.layer = Recurrent(config.input_size, config.hidden_size, cell=config.model, **shared, **config.options)
        width = config.hidden_size * (2 if config.bidirectional else 1)
        # what the head reads, under a name of its own: a place for noise and mixing
        self.features = nn.Identity()
        self.head = nn.Linear(width, config.output_size)
        if config.model == "lem":
            nn.init.kaiming_normal_(self.head.weight)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits or targets of a batch."""
        output, final = self._run(x, lengths)
        if self.config.task in ("predict", "tag"):
            return self.head(self.features(output))
        return self.head(self.features(final))

    def _run(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        if isinstance(self.layer, Recurrent):
            output, state = self.layer(x, lengths=lengths)
        elif lengths is None:
            output, state = self.layer(x)
        else:
            packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            packed, state = self.layer(packed)
            output, _ = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
        last = state[0] if isinstance(state, tuple) else state  # (L*D, B, H)
        D = 2 if self.config.bidirectional else 1
        return output, torch.cat(list(last[-D:]), -1)


def _options_of(kind: type) -> set[str]:
    found: set[str] = set()
    for base in kind.__mro__:
        if "__init__" in base.__dict__:
            found |= set(inspect.signature(base.__init__).parameters)
    return found - {"self", "input_size", "hidden_size", "bias", "options", "args", "kwargs"}


def parameter_count(config: ModelConfig) -> int:
    """Trainable numbers of the model, counted without allocating them."""
    with torch.device("meta"):
        return sum(p.numel() for p in SequenceModel(config).parameters())
