"""Whole, chunked, stepped, packed and padded passes agree on random shapes; compiling and exporting do not unroll."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence

from gyrostat import LEM, LipschitzRNN, NoisyRNN, Recurrent
from gyrostat.recurrent.cell import cell_names

CELLS = [n for n in cell_names() if not n.startswith("toy")]
sizes = st.integers(1, 5)


@pytest.mark.parametrize("name", CELLS)
@settings(max_examples=30, deadline=None)
@given(B=sizes, F=sizes, H=sizes, layers=st.integers(1, 3), data=st.data())
def test_whole_chunk_step_packed_padded(name, B, F, H, layers, data):
    lengths = data.draw(st.lists(st.integers(1, 7), min_size=B, max_size=B))
    T = max(lengths)
    cut = data.draw(st.integers(0, T))
    layer = Recurrent(F, H, layers, cell=name, dtype=torch.float64).eval()
    x = torch.randn(T, B, F, dtype=torch.float64, generator=torch.Generator().manual_seed(B * 100 + T))
    whole, final = layer(x)
    first, state = layer(x[:cut])
    second, _ = layer(x[cut:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    state = None
    for t in range(T):
        y_t, state = layer.step(x[t], state)
        assert torch.equal(y_t, whole[t])
    padded, held = layer(x, lengths=lengths)
    packed, kept = layer(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False))
    as_tuple = lambda s: (s,) if isinstance(s, torch.Tensor) else s  # noqa: E731
    for a, b in zip(as_tuple(held), as_tuple(kept)):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    for b, n in enumerate(lengths):
        torch.testing.assert_close(padded[:n, b], whole[:n, b], rtol=1e-12, atol=1e-12)
        assert not padded[n:, b].any()
    assert packed.data.shape[0] == sum(lengths)
    assert as_tuple(final)[0].shape == (layers, B, H)


def values_and_gradients(layer, run, x):
    layer.zero_grad()
    x = x.clone().requires_grad_()
    output, state = run(x)
    states = (state,) if isinstance(state, torch.Tensor) else state
    (output.square().sum() + sum(s.sin().sum() for s in states)).backward()
    return [output.detach(), *(s.detach() for s in states), x.grad, *(p.grad.clone() for p in layer.parameters())]


def agree_when_compiled(name, backend, **options):
    torch.compiler.reset()
    layer = Recurrent(2, 3, cell=name, dtype=torch.float64, **options).eval()
    x = torch.randn(4, 2, 2, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for ours, eager in zip(
        values_and_gradients(layer, compiled, x), values_and_gradients(layer, layer, x), strict=True
    ):
        torch.testing.assert_close(ours, eager, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_compiled_gradients_equal_eager(name):
    agree_when_compiled(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vector_field", {"geometry": "ring", "flow": "expmv"}),
        ("vector_field", {"geometry": "free", "divergence": "zero", "flow": "cayley"}),
        ("vector_field", {"parameterization": "hodge", "flow": "taylor:4", "learn_mass": True}),
        ("vector_field", {"parameterization": "pairs", "divergence": "penalty"}),
        ("orthogonal", {"parameterization": "dtriv"}),
        ("orthogonal", {"parameterization": "cayley", "negative_signs": 1}),
        ("lipschitz", {"solver": "etd1", "learn_dt": True}),
        ("lipschitz", {"solver": "cn"}),
        ("lipschitz", {"gated": True, "stable": 0.1}),
        ("lem", {"bidirectional": True, "num_layers": 2}),
    ],
)
def test_compiled_gradients_equal_eager_with_options(name, options):
    agree_when_compiled(name, "aot_eager", **options)


@pytest.mark.slow
def test_compiled_by_inductor():
    agree_when_compiled("lem", "inductor")


def test_compiling_does_not_unroll():
    layer = LEM(2, 4)
    counts = []

    def backend(graph, inputs):
        counts.append(len(list(graph.graph.nodes)))
        return graph

    for T in (4, 40):
        torch.compiler.reset()
        x = torch.randn(T, 2, 2)
        out = torch.compile(lambda v: layer(v)[0], fullgraph=True, backend=backend)(x)
        torch.testing.assert_close(out, layer(x)[0])
    assert counts[0] == counts[1], "the graph grows with T: the loop was unrolled"


# torch's exporter reads .grad of a tensor that is not a leaf and warns about itself
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_export_with_dynamic_batch_and_length():
    layer = LipschitzRNN(2, 4, batch_first=True).eval()
    dims = {0: torch.export.Dim("batch", min=2), 1: torch.export.Dim("time", min=2)}
    program = torch.export.export(layer, (torch.randn(3, 5, 2),), dynamic_shapes=(dims,), strict=False)
    for shape in ((3, 5, 2), (7, 11, 2)):
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x)[0], layer(x)[0])


def test_noise_follows_training_and_generator():
    layer = NoisyRNN(3, 4, additive_noise=0.1, multiplicative_noise=0.1)
    x = torch.randn(6, 2, 3)
    draw = lambda seed: layer(x, generator=torch.Generator().manual_seed(seed))[0]  # noqa: E731
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    state, g, steps = None, torch.Generator().manual_seed(1), []
    for x_t in x:
        y_t, state = layer.step(x_t, state, generator=g)
        steps.append(y_t)
    assert torch.equal(torch.stack(steps), draw(1)), "streaming sees the same noise"
    before = torch.get_rng_state()
    layer.eval()(x)
    assert torch.equal(before, torch.get_rng_state()), "evaluation consumes no randomness"


@pytest.mark.parametrize("form", ["sde", "released"])
def test_noise_has_the_stated_mean_and_variance(form):
    N, dt, a, m = 200_000, 0.04, 0.3, 0.2
    layer = NoisyRNN(1, 1, dt=dt, additive_noise=a, multiplicative_noise=m, noise_form=form, dtype=torch.float64)
    h0 = torch.full((1, N, 1), 0.7, dtype=torch.float64)
    x = torch.full((1, N, 1), 0.4, dtype=torch.float64)
    noisy = layer(x, h0, generator=torch.Generator().manual_seed(0))[0][0, :, 0]
    clean = layer.eval()(x, h0)[0][0, 0, 0]
    drift = (clean - 0.7) / dt
    excess = noisy - clean
    if form == "sde":
        mean, variance = 0.0, dt * (a + m * drift) ** 2
    else:
        mean, variance = -(m / 2) * dt * drift, (dt * drift * m) ** 2 / 12 + a**2
    # five standard errors of the mean and, for the variance, of a Gaussian's
    assert abs(excess.mean() - mean) < 5 * (variance / N) ** 0.5
    assert abs(excess.var() / variance - 1) < 5 * (2 / N) ** 0.5


@pytest.mark.parametrize(
    ("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4_38", 4), ("imex", 1), ("etd1", 1)]
)
def test_solvers_converge_at_their_order(solver, order):
    reference = LipschitzRNN(2, 5, solver="rk4_38", init_std=5.0, dtype=torch.float64)
    layer = LipschitzRNN(2, 5, solver=solver, dtype=torch.float64)
    layer.load_state_dict(reference.state_dict())
    x = torch.randn(1, 1, 2, dtype=torch.float64)
    exact = reference(x.expand(512, 1, 2), dt=1 / 512)[1]
    errors = [(layer(x.expand(n, 1, 2), dt=1 / n)[1] - exact).abs().max().item() for n in (8, 16, 32)]
    fitted = torch.tensor(errors).log2().diff().neg()
    assert (fitted > order - 0.25).all(), (errors, fitted)


def test_etd1_is_exact_for_a_linear_system_and_cn_keeps_length_for_skew():
    layer = LipschitzRNN(1, 4, solver="etd1", nonlinearity="identity", bias=False, beta_a=1.0, gamma_a=0.0, init_std=4.0,
                         dtype=torch.float64)  # fmt: skip
    with torch.no_grad():
        layer.m_w_l0.fill_(0)
        layer.cells[0].gamma_w = 0.0
        layer.weight_ih_l0.fill_(0)
    h0 = torch.randn(1, 1, 4, dtype=torch.float64)
    x = torch.zeros(7, 1, 1, dtype=torch.float64)
    h = layer(x, h0, dt=0.3)[1][0, 0]
    torch.testing.assert_close(h, torch.linalg.matrix_exp(2.1 * layer.A()) @ h0[0, 0], rtol=1e-12, atol=1e-12)
    layer.cells[0].solver = "cn"
    torch.testing.assert_close(layer(x, h0, dt=0.3)[1].norm(), h0.norm(), rtol=1e-12, atol=1e-12)


def test_stable_keeps_the_slope_rate_below_minus_rho():
    from gyrostat.analysis.rates import slope_rate

    layer = LipschitzRNN(2, 16, init_std=20.0, stable=0.2, dtype=torch.float64)
    assert slope_rate(layer.A(), layer.W()) <= -0.2 + 1e-10


def test_lem_states_stay_within_their_bound():
    layer = LEM(2, 8, dt=0.2, dtype=torch.float64)
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(30)
    y, z, _ = layer.forward_states(10 * torch.randn(50, 3, 2, dtype=torch.float64))
    bound = 1 - 0.8 ** torch.arange(1, 51, dtype=torch.float64)
    assert (y.abs().amax((1, 2)) <= bound + 1e-12).all()
    assert (z.abs().amax((1, 2)) <= bound + 1e-12).all()


def test_lem_has_as_many_parameters_as_an_lstm():
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    assert count(LEM(3, 8, 2, bidirectional=True)) == count(torch.nn.LSTM(3, 8, 2, bidirectional=True))
