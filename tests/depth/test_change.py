"""Refinement, projection, compression, other graphs: what they keep and what they cost."""

import copy
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from gyrostat._errors import ArgumentError
from gyrostat.depth.block import ContinuousBlock
from gyrostat.depth.change import blocks, function_norm2, project, refine, relative_errors, set_solver
from gyrostat.depth.compress import compress, output_bounds
from gyrostat.depth.manifest import manifestation_report, recalibrate_state, solver_error
from gyrostat.depth.optim import refine_optimizer
from gyrostat.depth.stages import GridAlignmentWarning
from gyrostat.numerics.basis import Basis, BSpline, DGLinear, Hat, PiecewiseConstant
from gyrostat.numerics.modal import AffineInDepth, Chebyshev, Cosine, Fourier, Legendre
from gyrostat.numerics.projection import fit_samples, projection_matrix
from tests.conftest import load_golden

ALL = [
    PiecewiseConstant(3),
    Hat(3),
    DGLinear(4),
    AffineInDepth(),
    Legendre(3),
    Chebyshev(3),
    Cosine(3),
    Fourier(3),
    BSpline(5),
]


def unit(width=3, norm=True):
    return nn.Sequential(
        nn.Linear(width, 6), nn.BatchNorm1d(6) if norm else nn.Identity(), nn.Tanh(), nn.Linear(6, width)
    ).double()


def data(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def trained(basis, solver="rk4", n_steps=6, norm=True, **options):
    """A block with distinct weights and statistics at all depths."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GridAlignmentWarning)
        block = ContinuousBlock(unit(norm=norm), basis, solver, n_steps, init="independent", **options)
    for seed in range(3):
        block(data(16, 3, seed=seed))
    return block.eval()


@pytest.mark.parametrize("basis", ALL, ids=Basis.spec)
@pytest.mark.parametrize("factor", [2, 3])
def test_refinement_at_the_same_steps_keeps_the_output(basis, factor):
    block = trained(basis)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GridAlignmentWarning)
        finer = refine(block, factor, steps=False)
    x = data(8, 3)
    if isinstance(basis, PiecewiseConstant):
        assert torch.equal(finer(x), block(x))
    torch.testing.assert_close(finer(x), block(x), rtol=1e-11, atol=1e-11)
    assert finer is not block
    assert block.basis == basis


@pytest.mark.parametrize("basis", [PiecewiseConstant(4), Hat(3), DGLinear(4), Legendre(3), BSpline(5)], ids=Basis.spec)
def test_the_old_gradient_is_the_transposed_refinement_of_the_new(basis):
    block = trained(basis, n_steps=8)
    finer = refine(block, steps=False)
    operator = torch.tensor(basis.refine()[1])
    for b in (block, finer):
        b(data(8, 3)).square().sum().backward()
    for path, nodes in block.theta.items():
        new = finer.theta.get(path).grad
        torch.testing.assert_close(nodes.grad, torch.tensordot(operator.T, new, 1), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_refining_steps_too_changes_the_output_by_the_order_of_the_scheme(solver, order):
    gaps = []
    block = trained(PiecewiseConstant(2), solver, 4, norm=False)
    for n in (8, 16, 32):
        block.set_solver(n_steps=n)
        gaps.append((refine(block)(data(8, 3)) - block(data(8, 3))).abs().max().item())
    slope = -np.polyfit(np.log([8, 16, 32]), np.log(gaps), 1)[0]
    assert abs(slope - order) < 0.2, gaps


def test_noise_breaks_the_symmetry_of_split_cells_reproducibly():
    block = trained(PiecewiseConstant(2))
    a, b = (refine(block, noise=0.1, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a.theta.get("0.weight"), b.theta.get("0.weight"))
    assert not torch.equal(a.theta.get("0.weight")[0], a.theta.get("0.weight")[1])


def test_projection_takes_weights_and_statistics_and_leaves_the_model_alone():
    block = trained(PiecewiseConstant(8), n_steps=8)
    before = copy.deepcopy(block.state_dict())
    small = project(block, Hat(4))
    matrix = torch.tensor(projection_matrix(PiecewiseConstant(8), Hat(4)))
    for nodes, new in ((block.theta, small.theta), (block.state, small.state)):
        for path, value in nodes.items():
            torch.testing.assert_close(new.get(path), torch.tensordot(matrix, value, 1))
    assert all(torch.equal(v, before[k]) for k, v in block.state_dict().items())
    assert project(block, "hat:4", inplace=True) is block
    assert block.basis == Hat(4)


def test_projection_by_name_of_block():
    model = nn.Sequential(trained(PiecewiseConstant(4), n_steps=4), trained(PiecewiseConstant(4), n_steps=4))
    out = project(model, {"1": PiecewiseConstant(2)})
    assert [b.basis.K for b in blocks(out).values()] == [4, 2]
    with pytest.raises(ArgumentError, match="no block '2'"):
        project(model, {"2": PiecewiseConstant(2)})
    with pytest.raises(ArgumentError, match=r"block '0' would lose .* parameter .* tol=0.01"):
        project(model, PiecewiseConstant(1), tol=0.01)
    with pytest.raises(ArgumentError, match="no ContinuousBlock"):
        project(nn.Linear(2, 2), Hat(2))


def test_there_and_back_is_lossless_exactly_when_the_function_is_in_the_target_space():
    block = trained(PiecewiseConstant(4), n_steps=8)
    up = project(project(block, PiecewiseConstant(8)), PiecewiseConstant(4))
    for path, value in block.theta.items():
        torch.testing.assert_close(up.theta.get(path), value, rtol=1e-12, atol=1e-12)
    down = project(project(block, PiecewiseConstant(2)), PiecewiseConstant(4))
    for path, loss in relative_errors(block, PiecewiseConstant(2)).items():
        if not block.theta.get(path).any():
            continue
        gap = (down.theta.get(path) - block.theta.get(path)).norm() / block.theta.get(path).norm()
        assert abs(float(gap.detach()) - loss) < 1e-12


def smooth_block(k=16):
    """Weights that vary slowly with depth: compressible."""
    block = trained(PiecewiseConstant(k), n_steps=k, norm=False)
    t = (torch.arange(k).double() + 0.5) / k
    with torch.no_grad():
        for _, nodes in block.theta.items():
            wave = 1 + 0.2 * torch.sin(2 * t)
            nodes.copy_(wave.reshape(-1, *[1] * (nodes.dim() - 1)) * nodes[0])
    return block


def test_compression_finds_the_smallest_size_within_the_tolerance():
    block = smooth_block()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GridAlignmentWarning)
        small, report = compress(block, tol=0.02)
    k = small.basis.K
    assert 1 < k < 16
    assert report.worst <= 0.02
    assert max(relative_errors(block, PiecewiseConstant(k - 1)).values()) > 0.02
    assert report.ratio == 16 / k
    assert dict(report.curve)[k] == report.worst
    assert block.basis.K == 16
    hat, report = compress(block, tol=0.02, basis="hat")
    assert isinstance(hat.basis, Hat)
    assert k > hat.basis.K  # second order in 1/K
    by_size, report = compress(block, n_basis=8)
    assert by_size.basis == PiecewiseConstant(8)
    assert report.to_dict()["ratio"] == 2
    assert report.plot().get_xlabel()
    assert compress(block, tol=0.0)[0].basis.K == 16
    with pytest.raises(ArgumentError, match="one of the two"):
        compress(block)


def test_compressing_a_function_that_does_not_vary_loses_nothing():
    block = ContinuousBlock(unit(), PiecewiseConstant(8), "rk4", 8).eval()
    for k in (1, 2, 4):
        small, report = compress(block, n_basis=k)
        assert report.worst < 1e-14
        torch.testing.assert_close(small(data(8, 3)), block(data(8, 3)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_output_bound_holds(seed):
    torch.manual_seed(seed)
    block = trained(PiecewiseConstant(8), "rk4", 32, norm=False, scale=0.5)
    x = data(8, 3, seed=seed)
    small, report = compress(block, n_basis=4, data=x)
    moved = (small(x) - block(x)).norm(dim=1).max().item()
    norms = lambda b: max(  # noqa: E731
        float(torch.linalg.matrix_norm(v, 2) * torch.linalg.matrix_norm(w, 2))
        for v, w in zip(b.theta.get("0.weight").detach(), b.theta.get("3.weight").detach())
    )
    rigorous = output_bounds(block, small, x, lipschitz=norms(small))[""]
    assert 0 < moved <= report.blocks[0].output_bound <= rigorous


class Slope(nn.Module):
    """x' = a(t) x, or x' = a(t)."""

    def __init__(self, linear):
        super().__init__()
        self.a, self.linear = nn.Parameter(torch.zeros((), dtype=torch.float64)), linear

    def forward(self, x):
        return self.a * x if self.linear else self.a + 0 * x


def test_cancellation_in_scalar_problems():
    g = load_golden("depth_math_rk")
    a = torch.tensor(g["linear/a"])
    k, x = len(a), torch.ones(1, dtype=torch.float64)
    for linear in (True, False):
        block = ContinuousBlock(Slope(linear), PiecewiseConstant(k), "euler", k)
        with torch.no_grad():
            block.theta.get("a").copy_(a)
        small = set_solver(project(block, PiecewiseConstant(k // 2)), n_steps=k // 2)
        torch.testing.assert_close(small.theta.get("a").detach(), torch.tensor(g["linear/a_compressed"]))
        if linear:
            assert abs(block(x).item() - g["linear/euler_full"]) < 1e-12
            assert abs(small(x).item() - g["linear/euler_short"]) < 1e-12
            flows = [set_solver(b, "rk4", 512)(x).item() for b in (block, small)]
            assert abs(flows[0] - g["linear/exact_flow"]) < 1e-10
            assert abs(flows[1] - flows[0]) < 1e-10
        else:
            torch.testing.assert_close(small(x), block(x), rtol=1e-14, atol=1e-14)


def test_manifestation_in_closed_form():
    g = load_golden("depth_math_manifestation")
    slopes = {"euler": 1, "midpoint": 2, "rk4": 4}
    for name, slope in slopes.items():
        for i, dt in enumerate(g["dt"]):
            exact = torch.linalg.matrix_exp(torch.tensor(g["A"]) * float(dt))
            linear = nn.Linear(2, 2, bias=False).double()
            with torch.no_grad():
                linear.weight.copy_(torch.tensor(g[f"{name}/G/{i}"]))
            for j, m in enumerate(g["m"]):
                block = ContinuousBlock(linear, solver=name, n_steps=int(m), scale=float(dt))
                flow = block(torch.eye(2, dtype=torch.float64)).T  # columns are images of unit vectors
                error = float(torch.linalg.matrix_norm((flow - exact).detach()))
                assert abs(error - g[f"{name}/flow_error"][i, j]) < 1e-12, (name, i, j)
                if m == 1:
                    assert error < 1e-12
        # the two smallest steps: the larger ones are before the asymptotic regime
        fitted = np.polyfit(np.log(g["dt"][-2:]), np.log(g[f"{name}/rate_error"][-2:]), 1)[0]
        assert abs(fitted - slope) < 0.1


@pytest.mark.parametrize(("name", "verdict"), [("euler", "discrete"), ("rk4", "integrator")])
def test_the_verdict_tells_a_residual_network_from_an_integrator(name, verdict):
    g = load_golden("depth_math_manifestation")
    i = int(np.argmin(np.abs(g["dt"] - 0.05)))
    linear = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(g[f"{name}/G/{i}"]))
    block = ContinuousBlock(linear, solver=name, n_steps=1, scale=0.05)
    x = data(64, 2)
    target = x @ torch.linalg.matrix_exp(torch.tensor(g["A"]) * 0.05).T
    report = manifestation_report(block, (x, target), metric=lambda y, t: -float((y - t).abs().max()), tol=5e-3)
    assert report.verdict == verdict, report.reason
    assert block.solver == name
    assert report.plot().get_legend() is not None
    assert report.to_dict()["trained"]["n_steps"] == 1


def test_the_error_estimate_is_close_to_the_error():
    for solver in ("midpoint", "rk4"):
        block = trained(PiecewiseConstant(2), solver, 16, norm=False)
        x = data(8, 3)
        exact = set_solver(copy.deepcopy(block), "rk4", 1024)(x)
        error = (block(x) - exact).abs().max().item()
        assert 0.7 < solver_error(block, x) / error < 1.4


@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), lambda p: torch.optim.AdamW(p, lr=0.01)]
)
def test_optimisers_move_to_the_refined_model(make):
    block = trained(PiecewiseConstant(2), n_steps=4).train()
    head = nn.Linear(3, 1).double()
    model = nn.Sequential(block, head)
    optimizer = make(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(data(8, 3)).square().sum().backward()
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.007
    finer = refine(model)
    fresh = refine_optimizer(optimizer, model, finer)
    assert fresh.param_groups[0]["lr"] == 0.007
    assert not fresh.state
    carried = refine_optimizer(optimizer, model, finer, carry=True)
    old, new = block.theta.get("0.weight"), finer[0].theta.get("0.weight")
    key = "momentum_buffer" if "momentum_buffer" in optimizer.state[old] else "exp_avg"
    moment = optimizer.state[old][key]
    # the gradient of a cell falls on its two halves
    torch.testing.assert_close(carried.state[new][key], moment.repeat_interleave(2, 0) / 2)
    if key == "exp_avg":
        squared = optimizer.state[old]["exp_avg_sq"].repeat_interleave(2, 0) / 4
        torch.testing.assert_close(carried.state[new]["exp_avg_sq"], squared)
    assert torch.equal(carried.state[finer[1].weight][key], optimizer.state[head.weight][key])
    carried.zero_grad()
    finer(data(8, 3)).square().sum().backward()
    carried.step()
    with pytest.raises(ArgumentError, match="not in both models"):
        refine_optimizer(optimizer, finer, model)


def test_function_norm_does_not_depend_on_refinement():
    block = trained(Hat(3))
    torch.testing.assert_close(function_norm2(refine(block)), function_norm2(block), rtol=1e-12, atol=0)
    function_norm2(block).backward()
    assert block.theta.get("0.weight").grad is not None


def test_recalibration_updates_statistics_only():
    block = trained(PiecewiseConstant(4), n_steps=4)
    weights = [p.clone() for p in block.parameters()]
    before = block.state.get("1.running_mean").clone()
    recalibrate_state(block, [data(16, 3, seed=9) + 1])
    assert not torch.equal(block.state.get("1.running_mean"), before)
    assert all(torch.equal(a, b) for a, b in zip(weights, block.parameters()))
    assert not block.training


@pytest.mark.slow
@pytest.mark.telling
def test_growing_reaches_what_training_at_full_depth_reaches(tmp_path):
    """Digits: RK4 refined from one unit to four against Euler with four from the start, and half of the units afterwards."""
    from gyrostat.data.catalogue import open_images
    from gyrostat.train.config import TrainConfig
    from gyrostat.train.levels import Levels, NetConfig, train_levels

    images = open_images("digits")
    config = TrainConfig(epochs=8, lr=0.05, optimizer="sgd", momentum=0.9, weight_decay=5e-4, clip=None, keep="last")
    scores, grown = {}, None
    for name, k, solver, refine_at in (("grown", 1, "rk4", (3, 5)), ("direct", 4, "euler", ())):
        net = NetConfig("image", 10, 1, basis=f"piecewise_constant:{k}", solver=solver, channels=6, segments=2)
        done = train_levels(images, net, Levels(config, refine_at), tmp_path / name, device="cpu")
        scores[name] = done.result["test_score"]
        grown = grown or done.model
    assert [b.basis.K for b in blocks(grown).values()] == [4, 4]
    assert scores["grown"] > scores["direct"] - 0.02, scores
    assert scores["grown"] > 0.95
    x, y = (torch.as_tensor(v) for v in images.part("test"))
    halved = project(grown, PiecewiseConstant(2))
    accuracy = [float((m.eval()(x).argmax(1) == y).double().mean()) for m in (grown, halved)]
    # measured 0 on this seed; a point of accuracy is 3.6 of 360 images
    assert accuracy[1] > accuracy[0] - 0.03, accuracy


def test_a_block_refits_statistics_as_the_numpy_oracle_does_also_where_samples_are_too_few():
    for n_steps in (2, 3, 7):
        unit = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
        block = ContinuousBlock(unit, Hat(5), "euler", n_steps, scale=0.3)
        block(data(16, 3))
        old = block.state.get("1.running_mean").clone().numpy()
        seen: list[np.ndarray] = []
        block._template[1].register_forward_hook(lambda m, _, out, s=seen: s.append(m.running_mean.clone().numpy()))
        block(data(16, 3, seed=1))
        rows = Hat(5).rows([Fraction(i, n_steps) for i in range(n_steps)])
        expected = fit_samples(rows, old, np.stack(seen))
        np.testing.assert_allclose(block.state.get("1.running_mean").numpy(), expected, rtol=1e-12, atol=1e-14)
        assert np.isfinite(expected).all()
