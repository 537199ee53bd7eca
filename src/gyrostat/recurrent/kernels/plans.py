"""How each cell enters a fused operator: its matrices, made by torch, and the words that choose the epilogues.

A plan is a function ``(cell, parameters) -> (operator, tensors, options)``. The matrices are computed here so that autograd
differentiates the parameterisation; the operator sees plain matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..cell import Cell

Plan = tuple[str, dict[str, Tensor | None], dict[str, Any]]
Make = Callable[[Any, dict[str, Tensor]], Plan]


def _inputs(p: dict[str, Tensor], gated: bool) -> dict[str, Tensor | None]:
    if not gated:
        return {"weight_ih": p["weight_ih"], "bias": p.get("bias")}
    bias = torch.cat([p["bias"], p["bias_gate"]]) if "bias" in p else None
    return {"weight_ih": torch.cat([p["weight_ih"], p["weight_gate"]]), "bias": bias}


def _lipschitz(cell: Any, p: dict[str, Tensor]) -> Plan:
    A, W = cell.matrices(p)
    options = {"phi": cell.nonlinearity, "gated": cell.gated, "solver": cell.solver}
    return "lipschitz", {**_inputs(p, cell.gated), "A": A, "W": W}, options


def _noisy(cell: Any, p: dict[str, Tensor]) -> Plan:
    _, tensors, options = _lipschitz(cell, p)
    form = "scalar" if cell.noise_form == "sde" and cell.brownian == "scalar" else cell.noise_form
    noise = {"noise": form, "sigma_a": cell.additive_noise, "sigma_m": cell.multiplicative_noise}
    return "lipschitz", tensors, {**options, **noise}


def _antisymmetric(cell: Any, p: dict[str, Tensor]) -> Plan:
    return "lipschitz", {**_inputs(p, cell.gated), "W": cell.matrix(p)}, {"phi": "tanh", "gated": cell.gated}


def _elman(cell: Any, p: dict[str, Tensor]) -> Plan:
    tensors = {**_inputs(p, False), "W": p["weight_hh"]}
    return "lipschitz", tensors, {"phi": cell.nonlinearity, "residual": cell.time_step}


def _flow(cell: Any, p: dict[str, Tensor]) -> Plan:
    tensors = {"weight_ih": p["weight_ih"], "W": cell.prepared_matrix(p)}
    if cell.nonlinearity == "modrelu":
        phi = "modrelu" if "bias" in p else "identity"
        return "lipschitz", {**tensors, "inner_bias": p.get("bias")}, {"phi": phi, "residual": False}
    return "lipschitz", {**tensors, "bias": p.get("bias")}, {"phi": cell.nonlinearity, "residual": False}


def _lem(cell: Any, p: dict[str, Tensor]) -> Plan:
    bias = None
    if "bias_ih" in p:
        H = cell.hidden_size
        steps, z = p["bias_hh"].split([2 * H, H])
        bias = p["bias_ih"] + torch.cat([steps, p["bias_zy"], z])
    tensors = {"weight_ih": p["weight_ih"], "bias": bias, "weight_hh": p["weight_hh"], "weight_zy": p["weight_zy"]}
    return "lem", tensors, {}


PLANS: dict[str, Make] = {
    "lipschitz": _lipschitz,
    "noisy": _noisy,
    "antisymmetric": _antisymmetric,
    "elman": _elman,
    "residual": _elman,
    "orthogonal": _flow,
    "vector_field": _flow,
    "lem": _lem,
}


def plan(cell: Cell) -> tuple[Make | None, str]:
    """The plan of ``cell``, or ``None`` and the reason why it has none."""
    # a subclass without a name of its own may have another step: only the class that is named has the plan
    name = type(cell).__dict__.get("name", "")
    kind = name or type(cell).__name__
    if name not in PLANS:
        return None, f"no fused kernel is built for {kind}"
    solver = getattr(cell, "solver", "euler")
    if solver in ("imex", "cn", "etd1"):
        return None, f"no fused kernel is built for the solver {solver!r}"
    if getattr(cell, "flow", "expm") == "expmv":
        return None, "flow='expmv' never forms the matrix that the fused kernel would multiply with"
    return PLANS[name], ""
