"""Vector-field RNNs on rings, tori, graphs, given and learned geometries; flows and their gains; the kept matrix."""

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch

from gyrostat import LatentGeometry, OrthogonalRNN, VectorFieldRNN
from gyrostat._errors import ArgumentError
from gyrostat.numerics.geometry import CompleteGraph, Graph, named_edges
from gyrostat.numerics.operators import divergence, flow, flow_gain, flux_to_operator, hodge
from tests.conftest import load_golden

# rounding of a few products of small float64 matrices
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
F64 = torch.float64
GEOMETRIES = ("complete", "ring", "torus", "free", [[0, 1], [1, 2], [2, 0], [2, 3], [3, 4], [4, 5], [5, 2]])


def close(a, b, **tolerance):
    torch.testing.assert_close(a, b, **(tolerance or CLOSE))


def golden(name):
    return {k: torch.as_tensor(v) for k, v in load_golden(name).items() if v.dtype.kind in "fib"}


def shaken(**options):
    layer = VectorFieldRNN(2, 6, dtype=F64, **options)
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_(0, 0.7, generator=draw)
    return layer


def m_norms(layer):
    root = layer.mass().sqrt()
    return torch.linalg.svdvals(root[:, None] * layer.W() / root)


def test_a_given_geometry_matches_the_stored_operators():
    g = golden("geom_free")
    layer = VectorFieldRNN(2, 6, geometry=LatentGeometry(g["G"], g["P"], g["alpha"]), dtype=F64)
    for field, operator in (("V", "D_split"), ("V_divfree", "D_split_divfree")):
        layer.load_state_dict({**layer.state_dict(), "flux_l0": g[field]})
        close(layer.operator(), g[operator])
    close(layer.divergence(), torch.zeros(6, dtype=F64))
    layer.load_state_dict({**layer.state_dict(), "flux_l0": g["V"]})
    close(layer.divergence(), g["div"])
    close(layer.mass(), g["mu"])
    close(layer.W(), g["E"])
    h = g["f"].requires_grad_()
    identity = VectorFieldRNN(2, 6, geometry=LatentGeometry(g["G"], g["P"], g["alpha"]), nonlinearity="identity",
                              bias=False, dtype=F64)  # fmt: skip
    identity.load_state_dict({k: v for k, v in layer.state_dict().items() if k != "bias_l0"})
    close(identity(torch.zeros(1, 1, 2, dtype=F64), h[None, None])[0][0, 0], g["E"] @ g["f"])


def test_a_learned_geometry_can_be_any_given_one():
    g = golden("geom_free")
    given = VectorFieldRNN(2, 6, geometry=LatentGeometry(g["G"], g["P"], g["alpha"]), dtype=F64)
    free = VectorFieldRNN(2, 6, geometry="free", n_cells=5, dtype=F64)
    own = given.state_dict()
    free.load_state_dict({
        **{k: own[k] for k in ("weight_ih_l0", "bias_l0", "flux_l0")},
        "theta_gradient_l0": g["G"] + 3, "theta_means_l0": g["P"].log(), "theta_weight_l0": g["alpha"].expm1().log(),
    })  # fmt: skip
    # a mean of zero weight has no finite logarithm: exact only where every mean is positive
    assert (g["P"] > 0).all()
    close(free.W(), given.W())
    close(free.mass(), given.mass())


def test_the_ring_disperses_exactly_in_the_layer():
    g = golden("geom_ring")
    for name, options in (("ring", {}), ("ring", {"flow": "expmv"}), ("complete", {})):
        layer = VectorFieldRNN(1, 16, geometry=name, nonlinearity="identity", bias=False, dtype=F64, **options)
        field = (g["t"] * g["S"])[tuple(layer.edges_l0 if name == "ring" else torch.triu_indices(16, 16, 1))]
        layer.load_state_dict({**layer.state_dict(), "flux_l0": field})
        # the stored masses are not 1: the operator halves with them
        assert (g["mu"] == g["mu"][0]).all()
        with torch.no_grad():
            layer.flux_l0.div_(g["mu"][0])
        close(layer(torch.zeros(1, 1, 1, dtype=F64), g["f"][None, None])[0][0, 0], g["exact"])


def test_the_sphere_rotates_in_the_layer():
    raw = load_golden("geom_sphere_mesh")
    g = {k: torch.as_tensor(v) for k, v in raw.items() if v.dtype.kind == "f"}
    layer = VectorFieldRNN(1, 42, geometry=LatentGeometry(g["G"], g["P"], g["alpha"]), nonlinearity="identity",
                           bias=False, dtype=F64)  # fmt: skip
    layer.load_state_dict({**layer.state_dict(), "flux_l0": -g["theta"] * g["V"]})
    moved = layer(torch.zeros(1, 1, 1, dtype=F64), g["X"][None, None, :, 0].contiguous())[0][0, 0]
    forward = VectorFieldRNN.W(layer) @ g["X"][:, 0]
    close(moved, forward)
    found = [(v - g["transported_x_split"]).abs().max() for v in (moved, torch.linalg.solve(layer.W(), g["X"][:, 0]))]
    assert min(found) < 1e-10


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("parameterization", ["flux", "pairs", "hodge"])
def test_zero_divergence_and_the_exact_properties(geometry, parameterization):
    options = {"geometry": geometry, "parameterization": parameterization}
    layer = shaken(divergence="zero", **options)
    close(layer.divergence(), torch.zeros(6, dtype=F64), rtol=0, atol=1e-10)
    E, mu = layer.W(), layer.mass()
    close(E.T @ torch.diag(mu) @ E, torch.diag(mu), rtol=1e-9, atol=1e-9)
    layer = shaken(**options)
    D, mu, div = layer.operator(), layer.mass(), layer.divergence()
    close(D.sum(1), torch.zeros(6, dtype=F64), rtol=0, atol=1e-11)
    close(divergence(D, mu), div, rtol=1e-9, atol=1e-10)
    close(D + D.T * mu / mu[:, None], -torch.diag(div), rtol=1e-9, atol=1e-10)
    if parameterization == "hodge":
        with torch.no_grad():
            layer.potential_l0.zero_()
        close(layer.divergence(), torch.zeros(6, dtype=F64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_starts_without_divergence(geometry):
    for options in ({}, {"divergence": "none"}, {"parameterization": "hodge"}, {"init": "cayley"}):
        layer = VectorFieldRNN(2, 6, geometry=geometry, dtype=F64, **options)
        close(m_norms(layer), torch.ones(6, dtype=F64), rtol=1e-10, atol=1e-10)
        assert (layer.W() - torch.eye(6)).abs().max() > 0.1, "the start turns"


def test_graphs_agree_with_the_complete_graph():
    every = [[i, j] for i in range(6) for j in range(6) if i != j]
    ours, theirs = VectorFieldRNN(2, 6, geometry=every, dtype=F64), VectorFieldRNN(2, 6, dtype=F64)
    ours.load_state_dict({**theirs.state_dict(), "edges_l0": ours.edges_l0})
    close(ours.W(), theirs.W())
    field = torch.randn(15, dtype=F64)
    complete, graph = CompleteGraph(6), Graph(6, torch.triu_indices(6, 6, 1))
    close(complete.project(field), graph.project(field))
    close(complete.flux(complete.project(field)), hodge(complete.flux(field))[0])
    a, b = torch.randn(2, 3, 6, dtype=F64)
    close(complete.pairs(a, b), graph.pairs(a, b))
    mu, rows = torch.rand(6, dtype=F64) + 0.5, torch.randn(4, 6, dtype=F64)
    S = graph.flux(field)
    close(graph.apply(field, mu, rows), rows @ flux_to_operator(S, mu).T)
    close(graph.apply(field, mu, rows, transport=False), rows @ (0.5 * S / mu[:, None]).T)


def test_named_graphs():
    assert named_edges("ring", 5).shape == (2, 5)
    assert named_edges("torus", 12).shape == (2, 24)
    assert VectorFieldRNN(1, 64, geometry="torus").flux_l0.shape == (128,)
    for n in (1, 2, 3):
        assert VectorFieldRNN(1, n, geometry="ring")(torch.zeros(2, 1, 1))[0].shape == (2, 1, n)
        assert VectorFieldRNN(1, n, geometry="free", divergence="zero")(torch.zeros(2, 1, 1))[0].shape == (2, 1, n)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_layer_can_be_made_under_another_default_device(geometry):
    with torch.device("meta"):
        layer = VectorFieldRNN(2, 6, geometry=geometry)
    assert {p.device.type for p in [*layer.parameters(), *layer.buffers()]} == {"meta"}
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    close(m_norms(layer), torch.ones(6), rtol=1e-4, atol=1e-4)


def test_bad_geometries_are_refused():
    G, P, alpha = torch.tensor([[-1.0, 1, 0], [0, -1, 1]]), torch.tensor([[0.5, 0.5, 0], [0, 0.5, 0.5]]), torch.ones(2)
    line = LatentGeometry(G, P, alpha)
    cases = [
        ("rnig", {}, "did you mean 'ring'"),
        ([[0, 1]], {}, "2 pieces"),
        ([[0, 3]], {}, "0..2"),
        ([[0.0, 1.0]], {}, "integer pairs"),
        (torch.ones(3, 3), {}, "nonzero"),
        ("torus", {}, "product"),
        (line, {"learn_mass": True}, "learn_mass"),
        (LatentGeometry(G + 1, P, alpha), {}, "G 1 = 0"),
        (LatentGeometry(G[:, :2], P[:, :2], alpha), {}, "hidden_size"),
        (LatentGeometry(G * torch.tensor([[1.0], [0]]), P, alpha), {"divergence": "zero"}, "rank"),
        ("free", {"divergence": "zero", "n_cells": 1, "hidden": 8}, "rank"),
        ("ring", {"n_cells": 3}, "n_cells"),
    ]
    for geometry, options, words in cases:
        with pytest.raises(ArgumentError, match=words):
            VectorFieldRNN(1, options.pop("hidden", 3), geometry=geometry, **options)
    assert VectorFieldRNN(1, 3, geometry=line)(torch.zeros(2, 1, 1))[0].shape == (2, 1, 3)


@pytest.mark.parametrize("method", ["expm", "cayley", "taylor:1", "taylor:4", "expmv"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_gains_stay_within_their_bounds(method, scale):
    for geometry in ("complete", "ring", "free"):
        layer = shaken(geometry=geometry, flow=method)
        with torch.no_grad():
            layer.flux_l0.mul_(scale)
        low, high = layer.gain_bounds()
        found = m_norms(layer)
        slack = 1e-9 * (1 + found.max())
        assert low - slack <= found.min()
        assert found.max() <= high + slack


def test_cayley_bounds_are_attained_and_break_down_where_they_say():
    # a diagonal operator is its own symmetric part, so the half-plane bound is the gain itself
    mu = torch.ones(2, dtype=F64)
    D = torch.diag(torch.tensor([-0.8, 0.6], dtype=F64))
    close(torch.stack(flow_gain(D, mu, "cayley")), torch.linalg.svdvals(flow(D, "cayley"))[[1, 0]])
    low, high = flow_gain(3 * D, mu, "cayley")
    assert low == 0
    assert high.isfinite()
    low, high = flow_gain(4 * D, mu, "cayley")
    assert low == 0
    assert high.isinf()


def test_taylor_approaches_the_exponential():
    layer = shaken()
    errors = [(flow(layer.operator(), f"taylor:{k}") - layer.W()).abs().max() for k in (4, 8, 16, 32)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10
    assert (m_norms(shaken(divergence="zero", flow="taylor:4")) - 1).abs().max() > 1e-4, "not orthogonal"
    for bad in ("taylor", "taylor:0", "taylor:x", "rk4", None):
        with pytest.raises(ArgumentError, match="flow must be one of"):
            VectorFieldRNN(1, 3, flow=bad)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("divergence", ["free", "none"])
def test_the_action_equals_the_matrix(geometry, divergence):
    whole = shaken(geometry=geometry, divergence=divergence)
    action = shaken(geometry=geometry, divergence=divergence, flow="expmv")
    x = torch.randn(6, 2, 2, dtype=F64)
    torch.testing.assert_close(action(x)[0], whole(x)[0], rtol=1e-9, atol=1e-10)
    # a transform of torch.func may not read values, so there the matrix stands in
    stacked = {k: torch.stack([p, p]) for k, p in action.named_parameters()}
    run = torch.func.vmap(lambda p: torch.func.functional_call(action, p, (x,))[0])
    torch.testing.assert_close(run(stacked)[1], whole(x)[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("geometry", ["ring", "free", [[0, 1], [1, 2], [0, 2], [2, 3]]], ids=str)
@pytest.mark.parametrize("options", [{"flow": "expmv"}, {"flow": "taylor:3", "parameterization": "pairs"},
                                     {"flow": "cayley", "parameterization": "hodge", "learn_mass": True}], ids=str)  # fmt: skip
def test_gradients_through_the_layer(geometry, options):
    if geometry == "free":
        options = {k: v for k, v in options.items() if k != "learn_mass"}
    layer = VectorFieldRNN(2, 4, nonlinearity="tanh", geometry=geometry, dtype=F64, **options)
    names = [k for k, _ in layer.named_parameters()]
    x = torch.randn(3, 2, 2, dtype=F64, requires_grad=True)

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values)), (x,))[0]

    own = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    # the analytic gradient reaches every parameter, the potential that starts at zero included
    assert torch.autograd.gradcheck(run, (x, *own), nondet_tol=1e-10)


def test_the_matrix_is_kept_while_nothing_changes():
    calls = []
    for layer in (VectorFieldRNN(2, 6, bidirectional=True).eval(), OrthogonalRNN(2, 6, bidirectional=True).eval()):
        cell = layer.cells[0]
        original = cell.matrix
        cell.matrix = lambda p, original=original: calls.append(1) or original(p)
        x = torch.randn(4, 3, 2)
        calls.clear()
        with torch.no_grad():
            first = layer(x)[0]
            assert len(calls) == 2
            assert torch.equal(layer(x)[0], first)
            assert len(calls) == 2, "both directions come from memory"
            with torch.inference_mode():
                layer(x)
            assert len(calls) == 2
            flow_parameter = layer.flux_l0 if hasattr(layer, "flux_l0") else layer.skew_l0
            flow_parameter.data.mul_(1.5)
            assert not torch.equal(layer(x)[0], first), "a change through .data is seen"
            assert len(calls) == 3
            layer.double()
            assert layer(x.double())[0].dtype == F64
        before = len(calls)
        layer(x.double())[0].sum().backward()
        assert len(calls) == before + 2, "with gradients on, the matrix belongs to the graph"
        assert flow_parameter.grad.abs().sum() > 0
        del cell.matrix
        with torch.no_grad():
            layer(x.double())
        assert pickle.loads(pickle.dumps(layer)).cells[0]._kept == []
        assert torch.equal(copy.deepcopy(layer)(x.double())[0], layer(x.double())[0])


def test_inference_mode_first_then_gradients_of_the_input():
    layer = VectorFieldRNN(2, 6).requires_grad_(False)
    x = torch.randn(4, 3, 2)
    with torch.inference_mode():
        want = layer(x)[0].clone()
    x = x.requires_grad_()
    found = layer(x)[0]
    found.sum().backward()
    assert torch.equal(found.detach(), want)
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("options", [{"flow": "cayley"}, {"flow": "expm"}, {"flow": "expmv", "geometry": "ring"},
                                     {"geometry": "free", "divergence": "zero"}], ids=str)  # fmt: skip
def test_half_precision_is_computed_wide(options):
    layer = VectorFieldRNN(2, 8, divergence=options.pop("divergence", "zero"), **options)
    half = copy.deepcopy(layer).bfloat16()
    x = torch.randn(6, 2, 2).bfloat16()
    wide = VectorFieldRNN(2, 8, divergence=layer.cells[0].divergence, **options)
    wide.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in half.state_dict().items()})
    # the matrix of the rounded parameters to the last bit of bfloat16, not a bfloat16 solve
    assert torch.equal(half.cells[0].prepared_matrix(half.parameters_of()), wide.W().bfloat16())
    assert half(x)[0].dtype == torch.bfloat16
    assert VectorFieldRNN(2, 8, dtype=torch.bfloat16, **options)(x)[0].isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = layer(x.float())[1]
        assert state.dtype == torch.float32
        close(layer.cells[0].prepared_matrix(layer.parameters_of()), layer.W(), rtol=1e-5, atol=1e-6)


def test_an_edge_list_travels_with_the_weights():
    square, path = [[0, 1], [1, 2], [2, 3], [3, 0]], [[0, 1], [1, 2], [2, 3], [1, 3]]
    ours, theirs = VectorFieldRNN(2, 4, geometry=square, dtype=F64), VectorFieldRNN(2, 4, geometry=path, dtype=F64)
    assert not torch.equal(ours.edges_l0, theirs.edges_l0)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 2, 2, dtype=F64)
    assert torch.equal(ours(x)[0], theirs(x)[0])
    assert ours.bfloat16().edges_l0.dtype == torch.long


def test_the_page_runs():
    page = (Path(__file__).parents[2] / "docs" / "vector_field.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "vector_field.md", "exec"), {})
