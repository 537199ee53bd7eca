"""What a block promises: the residual identity, statistics over depth, checkpointing, bad input."""

import copy
import math
import pickle
import warnings
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gyrostat._errors import ArgumentError, ArgumentTypeError, CheckpointError, ShapeError
from gyrostat.depth.block import ContinuousBlock
from gyrostat.depth.change import match_checkpoint
from gyrostat.depth.stages import GridAlignmentWarning
from gyrostat.depth.unit import redraw
from gyrostat.numerics.basis import BSpline, DGLinear, Hat, PiecewiseConstant
from gyrostat.numerics.modal import Chebyshev, Legendre


def mlp(width=3, norm=False):
    layers = [nn.Linear(width, 5), nn.BatchNorm1d(5) if norm else nn.Identity(), nn.Tanh(), nn.Linear(5, width)]
    return nn.Sequential(*layers).double()


def conv_unit(channels=2, **norm):
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(channels, **norm), nn.Tanh()).double()


def data(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def residual(units, x):
    for unit in units:
        x = x + unit(x)
    return x


@pytest.mark.parametrize("k", [1, 3, 7, 49])
def test_euler_with_as_many_steps_as_cells_is_the_residual_network_bit_for_bit(k):
    units = [mlp() for _ in range(k)]
    block = ContinuousBlock.from_units(units)
    x = data(4, 3)
    assert torch.equal(block(x), residual(units, x))
    assert torch.equal(residual(block.to_units(), x), block(x))


def test_the_residual_identity_holds_for_gradients_and_statistics_in_training():
    units = [conv_unit() for _ in range(3)]
    block = ContinuousBlock.from_units(units)
    x = data(4, 2, 5, 5)
    (y, z) = (block(x), residual(units, x))
    assert torch.equal(y, z)
    y.square().sum().backward()
    z.square().sum().backward()
    for k, unit in enumerate(units):
        for path, p in unit.named_parameters():
            # sums in another order
            torch.testing.assert_close(block.theta.get(path).grad[k], p.grad, rtol=1e-12, atol=1e-13)
        for path in ("1.running_mean", "1.running_var"):
            assert torch.equal(block.state.get(path)[k], unit.get_buffer(path))
    assert int(block.fixed.get("1.num_batches_tracked")) == 1


def test_a_unit_may_assign_its_buffers_anew():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))
            self.register_buffer("running_mean", torch.zeros(3))

        def forward(self, x):
            if self.training:
                self.running_mean = 0.5 * self.running_mean + 0.5 * x.detach().mean(0)
            return self.weight * (x - self.running_mean)

    for checkpoint in ("none", "step"):
        block = ContinuousBlock(Mean(), PiecewiseConstant(2), "euler", 2, checkpoint=checkpoint)
        block(torch.ones(2, 3))
        assert torch.equal(block.state.get("running_mean")[0], torch.full((3,), 0.5))
    assert block._template.running_mean.is_meta


def test_statistics_of_stages_that_leave_and_return_to_a_cell():
    with pytest.warns(GridAlignmentWarning):
        block = ContinuousBlock(conv_unit(), PiecewiseConstant(2), "ssprk3", 1)  # stages at 0, 1, 1/2 of the depth
    seen = []
    block._template[1].register_forward_pre_hook(lambda _, args: seen.append(args[0].mean((0, 2, 3)).detach()))
    block(data(3, 2, 5, 5))
    mean = block.state.get("1.running_mean")
    torch.testing.assert_close(mean[0], 0.1 * seen[0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(mean[1], 0.1 * (seen[1] + seen[2]) / 2, rtol=1e-12, atol=1e-14)


def test_statistics_are_averaged_within_a_cell_and_kept_where_no_stage_came():
    torch.manual_seed(3)
    block = ContinuousBlock(conv_unit(), PiecewiseConstant(4), "euler", 8)
    seen = []
    block._template[1].register_forward_pre_hook(lambda _, args: seen.append(args[0].mean((0, 2, 3)).detach()))
    block(data(3, 2, 5, 5))
    for k in range(4):
        mean = (seen[2 * k] + seen[2 * k + 1]) / 2
        torch.testing.assert_close(block.state.get("1.running_mean")[k], 0.1 * mean, rtol=1e-12, atol=1e-14)
    with pytest.warns(GridAlignmentWarning):
        few = ContinuousBlock(conv_unit(), PiecewiseConstant(4), "euler", 2)
    few(data(3, 2, 5, 5))
    mean = few.state.get("1.running_mean")
    assert torch.equal(mean[1], torch.zeros(2).double())
    assert torch.equal(mean[3], torch.zeros(2).double())
    assert bool((mean[0] != 0).all())
    assert bool((mean[2] != 0).all())


def test_variances_stay_positive():
    def run(rules):
        torch.manual_seed(0)
        unit = conv_unit(momentum=1.0)
        block = ContinuousBlock(unit, Hat(3), "euler", 4, scale=1.0, buffer_rules=rules)
        with torch.no_grad():
            # a rate whose variance over depth is large in the middle: the last node is extrapolated below zero
            block.theta.get("0.weight").mul_(torch.tensor([0.2, 3.0, 0.2]).reshape(-1, 1, 1, 1, 1))
        return block

    block = run(None)
    with pytest.warns(RuntimeWarning, match="clamped"):
        block(data(6, 2, 5, 5))
    assert bool((block.state.get("1.running_var") > 0).all())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        block(data(6, 2, 5, 5))  # says so once
        log = run({"running_var": "log"})
        log(data(6, 2, 5, 5))
        assert bool((log.state.get("1.running_var") > 0).all())
        assert bool(torch.isfinite(log.eval()(data(6, 2, 5, 5))).all())
    for basis in (Chebyshev(3), Legendre(4)):
        modal = ContinuousBlock(conv_unit(), basis, "euler", 4)
        for seed in range(5):
            modal(data(6, 2, 5, 5, seed=seed))
        assert bool(torch.isfinite(modal.eval()(data(6, 2, 5, 5))).all())


def test_the_variance_of_a_dead_channel_fades_without_a_warning():
    block = ContinuousBlock(conv_unit(momentum=0.9), PiecewiseConstant(2), "rk4", 2)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("0.weight", "0.bias"):
            block.theta.get(name).zero_()
        for _ in range(20):
            block(data(4, 2, 5, 5))
    variance = block.state.get("1.running_var")
    # 0.1^20 of the initial 1: as in a plain BatchNorm, neither raised nor called negative
    torch.testing.assert_close(variance, torch.full_like(variance, 1e-20), rtol=1e-9, atol=0)


def test_evaluation_writes_nothing_and_frozen_statistics_never_change():
    block = ContinuousBlock(conv_unit(), Hat(3), "rk4", 3)
    block(data(4, 2, 5, 5))
    before = copy.deepcopy(block.state_dict())
    block.eval()(data(4, 2, 5, 5, seed=1))
    assert all(torch.equal(v, before[k]) for k, v in block.state_dict().items())
    frozen = ContinuousBlock(conv_unit(), Hat(3), "rk4", 3, state_update="frozen")
    before = copy.deepcopy(frozen.state_dict())
    frozen(data(4, 2, 5, 5))
    assert all(torch.equal(v, before[k]) for k, v in frozen.state_dict().items())


@pytest.mark.parametrize("mode", ["stage", "step", "sqrt", 3])
@pytest.mark.parametrize("options", [{"basis": Hat(3)}, {"basis": PiecewiseConstant(3), "state_update": "sequential"}])
def test_checkpointing_changes_neither_outputs_nor_gradients_nor_statistics(mode, options):
    unit = nn.Sequential(conv_unit(), nn.Dropout(0.3))
    plain = ContinuousBlock(unit, solver="rk4", n_steps=6, **options)
    saving = ContinuousBlock(unit, solver="rk4", n_steps=6, checkpoint=mode, **options)
    saving.load_state_dict(plain.state_dict())
    results = []
    for block in (plain, saving):
        torch.manual_seed(5)
        x = data(4, 2, 5, 5).requires_grad_()
        y = block(x)
        y.square().sum().backward()
        results.append((y, x.grad, [p.grad for p in block.parameters()], list(block.buffers())))
    (y, gx, gp, buffers), (y2, gx2, gp2, buffers2) = results
    assert torch.equal(y, y2)
    assert torch.equal(gx, gx2)
    for a, b in zip(gp, gp2):
        # a hat function collects the same contributions in another order
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    assert all(torch.equal(a, b) for a, b in zip(buffers, buffers2))


def saved_numbers(mode, n_steps):
    """How many numbers the graph keeps for the backward pass, found by counting what autograd saves."""
    block = ContinuousBlock(mlp(64), PiecewiseConstant(1), "rk4", n_steps, checkpoint=mode)
    kept: dict[int, int] = {}

    def pack(t):
        kept[t.data_ptr()] = t.numel()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        block(data(256, 64))
    weights = {p.data_ptr() for p in block.parameters()}
    return sum(n for pointer, n in kept.items() if pointer not in weights)


def test_memory_with_checkpointing_grows_like_the_root_of_the_steps_or_better():
    slope = {}
    for mode in ("none", "sqrt"):
        small, large = saved_numbers(mode, 16), saved_numbers(mode, 256)
        slope[mode] = math.log(large / small) / math.log(16)
    assert slope["none"] > 0.9
    # what is kept between segments; inside one, sqrt(n) steps are recomputed at a time
    assert slope["sqrt"] < 0.6


def test_dropout_masks_can_stay_the_same_within_a_step_or_a_pass():
    class Mask(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))
            self.masks = []

        def forward(self, x):
            self.masks.append(nn.functional.dropout(torch.ones(8), 0.5, self.training))
            return self.weight * x

    def masks(dropout):
        block = ContinuousBlock(Mask(), solver="rk4", n_steps=2, dropout=dropout)
        block(torch.ones(2, 3))
        return block._template.masks

    per_stage, per_step, per_pass = (masks(d) for d in ("per_stage", "per_step", "per_pass"))
    assert len({tuple(m.tolist()) for m in per_stage}) > 2
    assert len({tuple(m.tolist()) for m in per_step[:4]}) == 1
    assert not torch.equal(per_step[0], per_step[4])
    assert len({tuple(m.tolist()) for m in per_pass}) == 1


def test_trajectory_depth_and_conditioning_reach_the_unit():
    class Timed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))
            self.times = []

        def forward(self, x, t, shift, *, factor):
            self.times.append(t)
            return self.weight * factor * (x - x) + shift

    block = ContinuousBlock(Timed(), solver="midpoint", n_steps=4, pass_time=True)
    y, path = block(torch.zeros(2, 3), torch.ones(2, 3), factor=1.0, return_trajectory=True)
    assert path.shape == (5, 2, 3)
    torch.testing.assert_close(path[:, 0, 0], torch.linspace(0, 1, 5))
    assert torch.equal(path[-1], y)
    assert block._template.times == [0, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8]


@given(
    k=st.integers(1, 5),
    steps=st.integers(1, 5),
    solver=st.sampled_from(["euler", "midpoint", "ssprk3", "rk4"]),
    family=st.sampled_from([PiecewiseConstant, Hat, Legendre, Chebyshev]),
    norm=st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_gradients_reach_every_node_exactly(k, steps, solver, family, norm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GridAlignmentWarning)
        block = ContinuousBlock(mlp(2, norm), family(k), solver, steps, scale=0.7).eval()
    x = data(3, 2)
    names = [n for n, _ in block.named_parameters()]

    def f(*values):
        return torch.func.functional_call(block, dict(zip(names, values)), (x,))

    values = tuple(p.detach().clone().requires_grad_() for p in block.parameters())
    assert torch.autograd.gradcheck(f, values, fast_mode=True)


def test_values_at_a_depth():
    block = ContinuousBlock(conv_unit(), PiecewiseConstant(4), init="independent")
    weight = block.theta.get("0.weight")
    assert torch.equal(block.parameters_at(0.25)["0.weight"], weight[1])
    assert torch.equal(block.parameters_at(0.25, side="left")["0.weight"], weight[0])
    assert torch.equal(block.parameters_at(1.0)["0.weight"], weight[3])
    assert set(block.state_at(0.5)) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    unit = block.unit_at(Fraction(1, 2))
    x = data(2, 2, 4, 4)
    torch.testing.assert_close(unit.eval()(x), block.unit_at(0.6).eval()(x))
    assert sum(p.numel() for p in unit.parameters()) * 4 == sum(p.numel() for p in block.parameters())


def test_initial_weights():
    unit = mlp()
    constant = ContinuousBlock(unit, Hat(3))
    assert all(torch.equal(constant.theta.get("0.weight")[k], unit[0].weight) for k in range(3))
    for basis in (Legendre(3), BSpline(5), DGLinear(4), Chebyshev(2)):
        block = ContinuousBlock(unit, basis)
        torch.testing.assert_close(block.parameters_at(0.37)["0.weight"], unit[0].weight)
        drawn = ContinuousBlock(unit, basis, init="independent")
        assert not torch.allclose(drawn.parameters_at(0.1)["0.weight"], drawn.parameters_at(0.9)["0.weight"])
    assert not torch.equal(redraw(unit)[0].weight, unit[0].weight)


def test_frozen_parameters_stay_frozen_and_tied_ones_tied():
    unit = mlp()
    unit[0].weight.requires_grad_(False)
    block = ContinuousBlock(unit, Hat(2))
    assert not block.theta.get("0.weight").requires_grad
    assert block.theta.get("3.weight").requires_grad

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(torch.tanh(self.a(x)))

    tied = ContinuousBlock(Tied(), PiecewiseConstant(1), "euler", 1)
    assert tied.theta.paths == ("a.weight",)
    unit = Tied()
    x = torch.randn(2, 3)
    block = ContinuousBlock.from_units([unit])
    assert torch.equal(block(x), x + unit(x))


def test_state_dict_round_trip_is_strict_and_knows_its_basis():
    block = ContinuousBlock(conv_unit(), Hat(3), "rk4", 4, init="independent")
    block(data(4, 2, 5, 5))
    twin = ContinuousBlock(conv_unit(), Hat(3), "euler", 2)
    twin.load_state_dict(block.state_dict())
    assert all(isinstance(v, torch.Tensor) for v in block.state_dict().values())
    twin.set_solver("rk4", 4)
    x = data(4, 2, 5, 5)
    assert torch.equal(twin.eval()(x), block.eval()(x))
    other = ContinuousBlock(conv_unit(), Hat(5))
    with pytest.raises(CheckpointError, match=r"basis hat:3.*this block has hat:5"):
        other.load_state_dict(block.state_dict())
    match_checkpoint(other, block.state_dict()).load_state_dict(block.state_dict())
    assert torch.equal(other.eval()(x), block(x))
    for same in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(same(x), block(x))


class Grows(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x):
        return self.linear(x)


class Casts(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x).double()


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(3, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.linear(x) * self.calls


class Pair(Grows):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: ContinuousBlock(Grows())(torch.ones(2, 3)), ShapeError, r"\(2, 3\) into \(2, 4\)"),
        (lambda: ContinuousBlock(Casts())(torch.ones(2, 3)), ArgumentTypeError, "dtype"),
        (lambda: ContinuousBlock(Pair())(torch.ones(2, 3)), ArgumentTypeError, "one tensor, got tuple"),
        (lambda: ContinuousBlock(Counts()).check(torch.ones(2, 3)), ArgumentError, "two answers"),
        (lambda: ContinuousBlock(nn.LazyLinear(3)), ArgumentError, "no shape yet"),
        (lambda: ContinuousBlock(torch.tanh), ArgumentTypeError, "torch.nn.Module"),
        (lambda: ContinuousBlock(mlp(), 8), ArgumentTypeError, "PiecewiseConstant"),
        (lambda: ContinuousBlock(mlp(), n_steps=0), ArgumentError, "n_steps"),
        (lambda: ContinuousBlock(mlp(), checkpoint="always"), ArgumentError, "checkpoint"),
        (lambda: ContinuousBlock(mlp(), Hat(2), state_update="sequential"), ArgumentError, "needs PiecewiseConstant"),
        (lambda: ContinuousBlock(mlp(), buffer_rules={"x": "mean"}), ArgumentError, "buffer_rules"),
        (
            lambda: ContinuousBlock(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))),
            ArgumentError,
            "has no rule",
        ),
        (lambda: ContinuousBlock.from_units([]), ArgumentError, "at least one"),
        (lambda: ContinuousBlock.from_units([mlp(), mlp(4)]), ArgumentError, "one shape"),
    ],
)
def test_bad_input_is_one_sentence(act, error, words):
    with pytest.raises(error, match=words) as caught:
        act()
    assert "ontinuousBlock" in str(caught.value)


def test_a_good_unit_passes_the_check_and_tables_need_no_rule():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.register_buffer("table", torch.ones(3), persistent=False)

        def forward(self, x):
            return self.linear(x) * self.table

    ContinuousBlock(Table(), Hat(3)).check(torch.ones(2, 3))
    ContinuousBlock(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), Hat(3)).check(torch.ones(2, 3))
