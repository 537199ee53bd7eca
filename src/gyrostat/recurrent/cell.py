"""What a recurrent cell is, and the registry of all cells.

    state⁺ = step(weights, x_t, state, dt),      weights = prepare(parameters)  once per pass

Source: the contract of this library; the layers around it follow ``torch.nn.LSTM``.
Differs from the released code: there, each model was a module with its own loop.

To add a cell, write one file in this folder and one test. A cell is a small object that holds numbers (sizes, ``dt``,
constants), never parameters: those live on the layer, under ``{name}_l{k}``, and are handed to ``prepare``. A subclass with
a ``name`` registers itself; the folder is listed, so nothing else has to be edited. Cells of other packages are found
through the entry-point group ``gyrostat.cells``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import pkgutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._checks import Boolean, Integer, Rule, check, nearest
from .._errors import ArgumentError

State = tuple[Tensor, ...]
Step = float | Tensor
_REGISTRY: dict[str, type[Cell]] = {}

NONLINEARITIES = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda a: a}
LIPSCHITZ_CONSTANTS = {"tanh": 1.0, "relu": 1.0, "sigmoid": 0.25, "identity": 1.0}


class Cell(ABC):
    """One step of a recurrence, without parameters of its own.

    Attributes:
        name: Registry key, the snake_case stem of the class; empty for a base class that is not a method.
        states: Names of the state tensors; the first is the output.
        time_step: Whether the cell has a step size ``dt``.
    """

    name: ClassVar[str] = ""
    states: ClassVar[tuple[str, ...]] = ("h",)
    time_step: ClassVar[bool] = True
    RULES: ClassVar[dict[str, Rule]] = {
        "input_size": Integer(1),
        "hidden_size": Integer(1),
        "bias": Boolean(),
    }

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True, dt: float = 1.0) -> None:
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "bias": bias}
        check(Cell.RULES, sizes, type(self).__name__.removesuffix("Math"))
        if not self.time_step and dt != 1.0:
            raise ArgumentError(
                f"{type(self).__name__.removesuffix('Math')}: dt must be left out, this recurrence has no time step"
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.dt = dt

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.RULES = {**cls.__mro__[1].RULES, **cls.__dict__.get("RULES", {})}  # pyright: ignore[reportAttributeAccessIssue]
        if "name" in cls.__dict__ and cls.name:
            _REGISTRY[cls.name] = cls

    def check(self, values: dict[str, Any]) -> None:
        """Check constructor arguments against ``RULES``; call it first in ``__init__`` with ``locals()``."""
        check(self.RULES, values, type(self).__name__.removesuffix("Math"))

    @abstractmethod
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each parameter, in the order of the state dict."""

    def buffer_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        """Name, shape and type (``None``: the layer's) of what travels with the layer untrained; ``reset`` fills it."""
        return {}

    def tensor_names(self) -> list[str]:
        """Names of all parameters and buffers: the keys of what ``prepare`` and ``reset`` are handed."""
        return [*self.parameter_shapes(), *self.buffer_shapes()]

    def reset(self, parameters: dict[str, Tensor], generator: torch.Generator | None = None) -> None:
        """Draw initial values in place; by default U(-1/√H, 1/√H) for everything, as in ``torch.nn.RNN``."""
        bound = 1 / math.sqrt(self.hidden_size)
        for value in parameters.values():
            value.uniform_(-bound, bound, generator=generator)

    @abstractmethod
    def prepare(self, parameters: dict[str, Tensor], dt: Step | None) -> Any:
        """What the steps share, computed once per pass. ``dt`` is the step when it is the same for all, else ``None``."""

    @abstractmethod
    def step(self, weights: Any, x: Tensor, state: State, dt: Step, extras: State = ()) -> State:
        """The equation: input ``(B, F)`` and state ``(B, H)`` to the next state."""

    def extras(self, steps: int, state: Tensor, training: bool, **options: Any) -> State:
        """Further inputs of each step, ``(T, ...)`` each: noise or its seeds, for the cells that have some."""
        if options:
            name = sorted(options)[0]
            raise TypeError(f"{type(self).__name__}: forward() got an unexpected keyword argument {name!r}")
        return ()

    def draws(self, extras: State, state: Tensor) -> State:
        """What ``step`` takes as its ``extras``: the same, unless ``extras`` are seeds from which noise is drawn."""
        return extras

    def step_size(self, parameters: dict[str, Tensor]) -> Step:
        """The step of the constructor, or the learned one."""
        return parameters.get("dt", self.dt)


def root_of_step(dt: Step) -> Step:
    """√dt, with derivative 0 where the step is 0 and the state is held."""
    return torch.sqrt(torch.where(dt == 0, 1, dt)) * (dt != 0) if isinstance(dt, Tensor) else dt**0.5


def linear_reset(weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
    """The default of ``torch.nn.Linear``: both U(-1/√fan_in, 1/√fan_in)."""
    bound = 1 / math.sqrt(weight.shape[1])
    weight.uniform_(-bound, bound, generator=generator)
    if bias is not None:
        bias.uniform_(-bound, bound, generator=generator)


def _load_all() -> None:
    here = Path(__file__).parent
    for module in pkgutil.iter_modules([str(here)]):
        if not module.name.startswith("_") and not module.ispkg:
            importlib.import_module(f"{__package__}.{module.name}")
    for point in importlib.metadata.entry_points(group="gyrostat.cells"):
        if point.name not in _REGISTRY:
            point.load()


def cell_names() -> list[str]:
    """Names of all registered cells, those of other packages included.

    Example:
        >>> "lem" in cell_names()
        True
    """
    _load_all()
    return sorted(_REGISTRY)


def get_cell(name: str) -> type[Cell]:
    """The class of the registered cell ``name``.

    Raises:
        ArgumentError: There is no such cell; the nearest name is suggested.

    Example:
        >>> get_cell("lem").states
        ('y', 'z')
    """
    if name not in _REGISTRY:
        _load_all()
    if name not in _REGISTRY:
        raise ArgumentError(
            f"no cell is called {name!r}{nearest(name, _REGISTRY)}; there are {', '.join(sorted(_REGISTRY))}"
        )
    return _REGISTRY[name]
