"""Stage times, scheme orders and the released goldens of the integrators."""

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from gyrostat._errors import ArgumentError
from gyrostat.depth.block import ContinuousBlock
from gyrostat.depth.stages import GridAlignmentWarning, stage_table
from gyrostat.numerics.basis import BSpline, Hat, PiecewiseConstant
from gyrostat.numerics.families import parse_basis
from gyrostat.numerics.tableau import TABLEAUS, tableau
from tests.conftest import load_golden

SCHEMES = tuple(TABLEAUS)


class Scalar(nn.Module):
    """x' = (cos(a t) + b t) x, or the quadrature x' = exp(a t / 3)."""

    def __init__(self, a, b, quadrature=False):
        super().__init__()
        self.a, self.b, self.quadrature = a, b, quadrature
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, t):
        if self.quadrature:
            return self.one * math.exp(self.a * t / 3) * torch.ones_like(x)
        return (self.one * (math.cos(self.a * t) + self.b * t)) * x


class TanhRate(nn.Module):
    def __init__(self, w1, b, w2):
        super().__init__()
        self.w1, self.b, self.w2 = (nn.Parameter(torch.as_tensor(v)) for v in (w1, b, w2))

    def forward(self, x):
        return torch.tanh(x @ self.w1.T + self.b) @ self.w2.T


def tanh_block(basis, width=8, size=3, seed=0, **options):
    g = torch.Generator().manual_seed(seed)
    shapes = ((width, size), (width,), (size, width))
    unit = TanhRate(*(torch.zeros(s, dtype=torch.float64) for s in shapes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GridAlignmentWarning)
        block = ContinuousBlock(unit, basis, **options)
    with torch.no_grad():
        for p in block.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))
    return block


def scalar_values(solver, n_values, a, b, x0, quadrature=False, open_set="left"):
    found = []
    for n in n_values:
        unit = Scalar(a, b, quadrature)
        block = ContinuousBlock(unit, solver=solver, n_steps=int(n), pass_time=True, open_set=open_set)
        found.append(block(torch.tensor([x0], dtype=torch.float64)).item())
    return np.array(found)


def test_scalar_problems_agree_with_golden():
    g = load_golden("depth_math_rk")
    a, b, x0 = g["a_b_x0"]
    for key, value in g.items():
        kind, _, name = key.partition("/")
        if kind == "scalar":
            found = scalar_values(name, g["n"], a, b, x0)
        elif kind == "quad" and name != "exact":
            found = scalar_values(name, g["n"], a, b, 0.0, quadrature=True)
        elif kind == "tableau":
            scheme = tableau(name.split("/")[0])
            exact = {"c": scheme.c, "b": scheme.b}.get(name.split("/")[1])
            if exact is None:
                exact = [list(row) + [0] * (scheme.stages - len(row)) for row in scheme.a]
            found = np.array(exact, dtype=float)
        else:
            continue
        # sums of at most 256 roundings
        np.testing.assert_allclose(found, value, rtol=1e-12, atol=1e-14, err_msg=key)


@pytest.mark.parametrize("released", ["depth_torch_scalar_ode", "depth_jax_rk"])
def test_released_scalar_problem(released):
    g = load_golden(released)
    a, b, x0 = g["a_b_x0"]
    names = {"rk4": "rk4_38", "rk4_classic": "rk4", "euler": "euler", "midpoint": "midpoint"}
    names |= {"Euler": "euler", "Midpoint": "midpoint", "RK4": "rk4", "RK4_38": "rk4_38"}
    for key, value in g.items():
        parts = key.split("/")
        if released.endswith("ode") and key.endswith("openset0"):
            found = scalar_values(names[parts[0]], g["n"], a, b, x0)
        elif parts[0] == "scalar" and len(parts) == 2:
            found = scalar_values(names[parts[1]], g["n"], a, b, x0, open_set="legacy_jax")
        else:
            continue
        np.testing.assert_allclose(found, value, rtol=1e-12, err_msg=key)


def test_released_networks():
    g = load_golden("depth_jax_rk")
    names = {"Euler": "euler", "Midpoint": "midpoint", "RK4": "rk4", "RK4_38": "rk4_38"}
    done = 0
    for key, value in g.items():
        parts = key.split("/")
        if parts[0] != "net" or len(parts) != 4:
            continue
        basis = parse_basis(":".join(parts[1].rsplit("_", 1)))
        w = {n: torch.tensor(g[f"net/{parts[1]}/{n}"]) for n in ("W1", "b", "W2", "x")}
        unit = TanhRate(w["W1"][0], w["b"][0], w["W2"][0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GridAlignmentWarning)
            block = ContinuousBlock(unit, basis, names[parts[2]], int(parts[3]), open_set="legacy_jax")
        with torch.no_grad():
            for name, node in (("w1", "W1"), ("b", "b"), ("w2", "W2")):
                block.theta.get(name).copy_(w[node])
        np.testing.assert_allclose(block(w["x"]).detach().numpy(), value, rtol=1e-12, atol=1e-12, err_msg=key)
        done += 1
    assert done >= 36


def test_cells_read_by_each_stage():
    g = load_golden("depth_torch_stage_cells")
    names = {"rk4": "rk4_38", "rk4_classic": "rk4", "euler": "euler", "midpoint": "midpoint"}
    compared = 0
    for key, cells in g.items():
        if not key.endswith("/cell"):
            continue
        precision, scheme, depth, openset, _ = key.split("/")
        k = int(depth.removeprefix("time_d"))
        ours = [int(r.argmax()) for r in stage_table(PiecewiseConstant(k), names[scheme], k).phi]
        n_stages = tableau(names[scheme]).stages
        # each step stays in its own cell: what the papers mean
        assert ours == [i for i in range(k) for _ in range(n_stages)]
        if k & (k - 1) == 0 and precision == "f64" and openset == "openset1":
            assert ours == cells.tolist(), key
            compared += 1
        if k & (k - 1) == 0 and precision == "f32" and openset == "openset1":
            legacy = stage_table(PiecewiseConstant(k), names[scheme], k, "uniform", "legacy_torch32")
            assert [int(r.argmax()) for r in legacy.phi] == cells.tolist(), key
            compared += 1
    assert compared >= 8


@pytest.mark.parametrize("name", SCHEMES)
def test_order_conditions(name):
    s = tableau(name)
    c, b = [Fraction(v) for v in s.c], s.b
    sums = [sum(bb * cc**p for bb, cc in zip(b, c)) for p in range(4)]
    for p in range(s.order):
        assert sums[p] == Fraction(1, p + 1)
    if s.order >= 3:
        inner = [sum((a * cc for a, cc in zip(row, c)), Fraction(0)) for row in s.a]
        assert sum(bb * v for bb, v in zip(b, inner)) == Fraction(1, 6)


def fitted_order(block, solver, steps, **options):
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", GridAlignmentWarning)
        block.set_solver("rk4", 2048, "aligned")
        exact = block(x)
        errors = []
        for n in steps:
            block.set_solver(solver, n, options.get("grid", "uniform"))
            errors.append((block(x) - exact).abs().max().item())
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def mild_block(basis, seed=0):
    """Weights small enough that these steps are in the asymptotic regime."""
    block = tanh_block(basis, width=4, seed=seed)
    with torch.no_grad():
        for p in block.parameters():
            p.mul_(0.7)
    return block


@pytest.mark.parametrize("name", SCHEMES)
def test_fitted_orders_aligned_and_misaligned(name):
    order = tableau(name).order
    block = mild_block(PiecewiseConstant(4))
    aligned = [16, 32, 64] if order == 4 else [64, 128, 256]
    assert abs(fitted_order(block, name, aligned) - order) < 0.1
    # one less than a multiple of 4: the jumps fall at the same place of a step for all of these
    assert abs(fitted_order(block, name, [11, 23, 47, 95, 191]) - 1) < 0.1
    assert abs(fitted_order(block, name, [2 * n - 1 for n in aligned], grid="aligned") - order) < 0.1


@pytest.mark.parametrize("name", SCHEMES)
def test_continuous_bases_keep_the_order_when_aligned(name):
    order = tableau(name).order
    aligned = [16, 32, 64] if order == 4 else [64, 128, 256]
    found = fitted_order(mild_block(Hat(5), seed=1), name, aligned)
    # fourth order is approached from above here
    assert (found > 3.9) if order == 4 else (abs(found - order) < 0.1)
    if name == "rk4":
        assert fitted_order(mild_block(BSpline(7)), name, aligned) > 3.8


def test_the_error_of_a_network_with_kinks_decreases():
    block = mild_block(Hat(5))
    block._template.forward = lambda x: torch.relu(x @ block._template.w1.T + block._template.b) @ block._template.w2.T
    # kinks in x: the order is irregular, between 1 and 3
    assert fitted_order(block, "rk4", [16, 32, 64, 128]) > 0.9


def test_observed_orders_on_the_scalar_problem():
    g = load_golden("depth_math_rk")
    a, b, x0 = g["a_b_x0"]
    steps = [32, 64, 128]
    exact = scalar_values("rk4", [4096], a, b, x0)[0]
    for name, low, high in (("euler", 0.98, 1.02), ("midpoint", 1.9, 2.0), ("rk4", 4.0, 4.6), ("rk4_38", 3.98, 4.08)):
        errors = np.abs(scalar_values(name, steps, a, b, x0) - exact)
        assert low <= -np.polyfit(np.log(steps), np.log(errors), 1)[0] <= high, name


def test_the_released_nudge_leaves_a_floor_under_the_error():
    g = load_golden("depth_math_rk")
    a, b, x0 = g["a_b_x0"]
    exact = scalar_values("rk4", [4096], a, b, x0)[0]
    nudged = np.abs(scalar_values("rk4", [16, 64, 128], a, b, x0, open_set="legacy_jax") - exact)
    assert np.all(nudged > 3e-6)
    assert np.abs(scalar_values("rk4", [128], a, b, x0) - exact)[0] < 1e-10


def test_the_released_open_set_in_float32_is_first_order():
    def order(open_set):
        block = tanh_block(PiecewiseConstant(4), width=4, open_set=open_set, n_steps=4)
        x = torch.ones(2, 3, dtype=torch.float64)
        reference = tanh_block(PiecewiseConstant(4), width=4, n_steps=512)(x)
        errors = []
        for n in (16, 32, 64, 128):
            block.set_solver("rk4", n)
            errors.append((block(x) - reference).abs().max().item())
        return -np.polyfit(np.log([16, 32, 64, 128]), np.log(errors), 1)[0]

    assert abs(order("legacy_torch32") - 1) < 0.1
    assert order("left") > 3.8


def test_calls_are_steps_times_stages_and_misaligned_grids_warn():
    for name in SCHEMES:
        block = tanh_block(PiecewiseConstant(4), solver=name, n_steps=4)
        assert block.n_evaluations == 4 * tableau(name).stages
    with pytest.warns(GridAlignmentWarning, match="multiple of 4 steps"):
        block.set_solver("rk4", 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        block.set_solver("rk4", 6, "aligned")
    assert block._table.n_steps == 8  # 6 equal steps and two breakpoints between


def test_unknown_schemes_list_the_names():
    with pytest.raises(ArgumentError, match="solver must be one of euler"):
        tanh_block(Hat(2), solver="dopri5")
    with pytest.raises(ArgumentError, match="n_steps must be an integer >= 1"):
        tanh_block(Hat(2), n_steps=0)
