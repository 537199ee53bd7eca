"""Blocks and statistics against the arrays of the released codes."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gyrostat.depth.block import ContinuousBlock
from gyrostat.depth.change import refine
from gyrostat.depth.stages import GridAlignmentWarning
from gyrostat.numerics.basis import PiecewiseConstant
from gyrostat.numerics.families import parse_basis
from tests.conftest import load_golden

TORCH = {"rk4": "rk4_38", "rk4_classic": "rk4", "euler": "euler", "midpoint": "midpoint"}
JAX = {"Euler": "euler", "Midpoint": "midpoint", "RK4": "rk4", "RK4_38": "rk4_38"}
TOL = {"rtol": 1e-10, "atol": 1e-10}


class Unit(nn.Module):
    """conv-ReLU-BN twice, or BN-ReLU-conv twice; a scalar gate when asked for."""

    def __init__(self, channels, norm, act_first, gate):
        super().__init__()
        self.L1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.L2 = nn.Conv2d(channels, channels, 3, padding=1)
        if norm:
            self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        if gate:
            self.skip_init = nn.Module()
            self.skip_init.register_parameter("weight", nn.Parameter(torch.zeros(())))
        self.norm, self.act_first, self.gate = norm, act_first, gate

    def forward(self, x):
        if self.act_first:
            x = self.L1(F.relu(self.bn1(x)))
            x = self.L2(F.relu(self.bn2(x)))
        else:
            x = F.relu(self.L1(x))
            x = self.bn1(x) if self.norm else x
            x = F.relu(self.L2(x))
            x = self.bn2(x) if self.norm else x
        return self.skip_init.weight * x if self.gate else x


def fill(block, g, prefix, k):
    """Copy a released state_dict, where statistics are lists over the cells."""
    with torch.no_grad():
        for nodes in (block.theta, block.state):
            for path, value in nodes.items():
                if f"{prefix}/{path}" in g:
                    new = g[f"{prefix}/{path}"]
                else:
                    head, leaf = path.split(".")
                    new = np.stack([g[f"{prefix}/{head}.bns.{i}.{leaf}"] for i in range(k)])
                value.copy_(torch.tensor(new))


@pytest.mark.parametrize("variant", ["plain", "bn", "bnskip", "actfirst"])
def test_released_torch_block(variant):
    g = load_golden("depth_torch_odeblock")
    k, eps = int(g["meta/time_d"]), float(g["meta/epsilon"])
    x = torch.tensor(g[f"{variant}/x"])
    unit = Unit(x.shape[1], variant != "plain", variant == "actfirst", variant == "bnskip").double()
    for name, solver in TORCH.items():
        for n in (2, 4):
            where = f"{variant}/{name}/{n}"
            block = ContinuousBlock(unit, PiecewiseConstant(k), solver, n, eps, state_update="sequential")
            fill(block, g, f"{variant}/param", k)
            block.eval()
            xx = x.clone().requires_grad_()
            y = block(xx)
            np.testing.assert_allclose(y.detach(), g[f"{where}/y_eval"], **TOL)
            (0.5 * y.square().sum()).backward()
            np.testing.assert_allclose(xx.grad, g[f"{where}/grad_x"], **TOL)
            np.testing.assert_allclose(block.theta.get("L1.weight").grad, g[f"{where}/grad_L1_weight"], **TOL)
            if f"{where}/y_train" in g:
                block.train()
                np.testing.assert_allclose(block(x).detach(), g[f"{where}/y_train"], **TOL)
                for path, value in block.state.items():
                    head, leaf = path.split(".")
                    for i in range(k):
                        np.testing.assert_allclose(value[i], g[f"{where}/after/{head}.bns.{i}.{leaf}"], **TOL)
        block = ContinuousBlock(unit, PiecewiseConstant(k), solver, k, eps)
        fill(block, g, f"{variant}/param", k)
        finer = refine(block.eval())
        assert finer.n_steps == int(g[f"{variant}/refined_n_time_steps"])
        np.testing.assert_array_equal(finer.theta.get("L1.weight").detach(), g[f"{variant}/refined_param/L1.weight"])
        np.testing.assert_allclose(finer(x).detach(), g[f"{variant}/refined/{name}/y_eval"], **TOL)


class FlaxNorm(nn.Module):
    """Batch norm as flax updates it: biased variance, momentum is what is kept."""

    def __init__(self, channels, keep):
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.keep = keep

    def forward(self, x):
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            with torch.no_grad():
                self.running_mean.mul_(self.keep).add_(mean, alpha=1 - self.keep)
                self.running_var.mul_(self.keep).add_(var, alpha=1 - self.keep)
        else:
            mean, var = self.running_mean, self.running_var
        mean, var, scale, bias = (v[:, None, None] for v in (mean, var, self.scale, self.bias))
        return (x - mean) / torch.sqrt(var + 1e-5) * scale + bias


class FlaxUnit(nn.Module):
    def __init__(self, channels, keep):
        super().__init__()
        self.BatchNorm_0, self.BatchNorm_1 = FlaxNorm(channels, keep), FlaxNorm(channels, keep)
        self.Conv_0, self.Conv_1 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x):
        x = self.Conv_0(F.relu(self.BatchNorm_0(x)))
        return self.Conv_1(F.relu(self.BatchNorm_1(x)))


def flax_leaf(g, prefix, path, k):
    module, leaf = path.split(".")
    if leaf.startswith("running_"):
        kind, leaf = f"{prefix}ode_state/state/{{}}/batch_stats", leaf.removeprefix("running_")
    else:
        kind, leaf = f"{prefix}ode_params/{{}}/params", "kernel" if leaf == "weight" else leaf
    values = np.stack([g[f"{kind.format(i)}/{module}/{leaf}"] for i in range(k)])
    return values.transpose(0, 4, 3, 1, 2) if leaf == "kernel" else values


CASES = [
    "Euler_2/piecewise_constant_2/BatchNorm",
    "Euler_2/piecewise_constant_2/BatchNorm-opt-flax",
    "Midpoint_4/piecewise_constant_2/BatchNorm-opt-flax",
    "RK4_2/piecewise_constant_2/BatchNorm-opt-flax",
    "RK4_38_4/fem_linear_3/BatchNorm-opt-flax",
]


@pytest.mark.parametrize("case", CASES)
def test_released_stateful_block(case):
    g = load_golden("depth_jax_block")
    solver, basis_word, norm = case.split("/")
    name, n = solver.rsplit("_", 1)
    basis = parse_basis(":".join(basis_word.rsplit("_", 1)))
    x = torch.tensor(g[f"{case}/x"]).permute(0, 3, 1, 2).contiguous()
    unit = FlaxUnit(x.shape[1], 0.9 if norm.endswith("flax") else 0.99).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GridAlignmentWarning)
        block = ContinuousBlock(unit, basis, JAX[name], int(n), 1.5, open_set="legacy_jax")
    with torch.no_grad():
        for path, value in block.theta.items():
            value.copy_(torch.tensor(flax_leaf(g, f"{case}/params/", path, basis.K)))
        for path, value in block.state.items():
            value.copy_(torch.tensor(flax_leaf(g, f"{case}/state/", path, basis.K)))
    np.testing.assert_allclose([float(t) for t in block._table.times], g[f"{case}/stage_t"], atol=1e-12)
    y_eval = block.eval()(x)
    np.testing.assert_allclose(y_eval.detach().permute(0, 2, 3, 1), g[f"{case}/y_eval"], **TOL)
    y = block.train()(x)
    np.testing.assert_allclose(y.detach().permute(0, 2, 3, 1), g[f"{case}/y_train"], **TOL)
    for path, value in block.state.items():
        np.testing.assert_allclose(value, flax_leaf(g, f"{case}/new_state/", path, basis.K), **TOL)
