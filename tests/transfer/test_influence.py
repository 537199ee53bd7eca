"""Influence: golden files, exact leave-one-out, the closed form against autograd, all solvers against each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from gyrostat._errors import ArgumentError, MemoryBudgetError
from gyrostat.transfer.curvature import ChosenParameters, curvature_operator, dense
from gyrostat.transfer.head import complement, head_hessian, head_point, head_product
from gyrostat.transfer.influence import influence_scores
from tests.conftest import load_golden

F64 = torch.float64


def tensors(name):
    return {k: torch.tensor(v) if v.dtype.kind in "fi" else v for k, v in load_golden(name).items()}


def linear(weight, bias=None):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=F64)
    layer.weight.data = weight.clone()
    if bias is not None:
        layer.bias.data = bias.clone()
    return layer


def full(point):
    """Gradients of the logits over all C classes, and what they multiply."""
    return point.q @ complement(point.p.shape[1], point.p).T, point.a


@pytest.mark.parametrize("name", ["influence_original_b1", "influence_original_b8"])
def test_the_released_way(name):
    d = tensors(name)
    n, size = len(d["y"]), int(d["batch_size"])
    model = linear(d["W"], d["b"])
    point = head_point(d["features"], model(d["features"]).detach(), d["y"], True)
    C, D = d["W"].shape[0], d["W"].shape[1] + 1
    weights = torch.tensor([1 / min(size, n - i // size * size) for i in range(n)], dtype=F64)
    H = head_hessian(point, weights, torch.eye(C, dtype=F64))
    # the golden order is the weight row by row, then the bias
    order = torch.cat([torch.arange(C * D).view(C, D)[:, :-1].reshape(-1), torch.arange(C) * D + D - 1])
    torch.testing.assert_close(H[order][:, order], d["H"], rtol=1e-8, atol=1e-12)
    found = influence_scores(
        model,
        (d["features"], d["y"]),
        (d["features_test"], d["y_test"]),
        l2=0.0,
        solver="pinv",
        rcond=float(d["rcond"]),
    )
    if size > 1:  # a sum over batches weights the last, shorter one differently: not what influence_scores inverts
        test = head_point(d["features_test"], model(d["features_test"]).detach(), d["y_test"], True)
        train_rows, test_rows = ((q[:, :, None] * a[:, None]).flatten(1) for q, a in (full(point), full(test)))
        inverse = torch.linalg.pinv(H, rtol=float(d["rcond"]), hermitian=True)
        kept = int(torch.linalg.matrix_rank(H, rtol=float(d["rcond"]), hermitian=True))
        found = replace(found, scores=test_rows @ inverse @ train_rows.T, rank=kept)
        torch.testing.assert_close(train_rows[:, order], d["train_grads"], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(found.scores, d["influences"], rtol=1e-8, atol=1e-12)
    assert found.rank == int(d["rank_kept"])
    assert torch.equal(found.top(60), d["order"])
    torch.testing.assert_close(found.same_class(60), d["match_curve"])
    assert found.at_least(3, 5) == float(d["at_least_3_of_5"])


SOLVES = [
    {},
    {"solver": "cholesky"},
    {"solver": "woodbury"},
    {"solver": "woodbury", "self_scores": False},
    {"solver": "cg", "tol": 1e-11},
    {"self_scores": False},
    {"parameters": "all"},
    {"parameters": ["weight"], "solver": "cg", "curvature": "gauss_newton", "tol": 1e-11, "self_scores": False},
]


@pytest.mark.parametrize("choice", SOLVES, ids=str)
def test_scores_are_the_exact_leave_one_out_changes(choice):
    d = tensors("influence_loo_digits")
    model = linear(d["theta"])
    found = influence_scores(model, (d["X"], d["y"]), (d["X_test"], d["y_test"]), l2=float(d["l2"]), **choice)
    torch.testing.assert_close(found.scores, d["predicted_loo"], rtol=1e-8, atol=1e-12)
    # with the model's l2 in the curvature; measured .993 over all pairs, .996 averaged over test samples
    assert np.corrcoef(found.scores.ravel(), d["actual_loo"].ravel())[0, 1] > 0.98
    assert np.corrcoef(found.scores.mean(0), d["actual_loo"].mean(0))[0, 1] > 0.98
    assert found.gradient_norm < 1e-8
    assert found.message == "solved, at a minimum of the objective"
    products = d["test_grads"] @ d["train_grads"].T
    plain = np.corrcoef(products.ravel(), d["actual_loo"].ravel())[0, 1]
    assert plain < 0.9  # a gradient product is a worse answer, so the threshold above means something


def test_wrong_labels_come_first():
    d = tensors("influence_loo_digits")
    found = influence_scores(linear(d["theta"]), (d["X"], d["y"]), (d["X_test"], d["y_test"]), l2=float(d["l2"]))
    assert set(d["flipped"].tolist()) <= set(found.suspects(12).tolist())


def objective(model, x, y, l2, weights):
    squares = sum((p**2).sum() for p in model.parameters())
    return (weights * cross_entropy(model(x), y, reduction="none")).sum() + l2 / 2 * squares


def minimise(model, x, y, l2, weights):
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-11, tolerance_change=0,
                                  history_size=50, line_search_fn="strong_wolfe")  # fmt: skip

    def closure():
        optimizer.zero_grad()
        value = objective(model, x, y, l2, weights)
        value.backward()
        return value

    optimizer.step(closure)


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()


def test_a_whole_network_against_retraining():
    g = torch.Generator().manual_seed(0)
    x, xt = torch.randn(30, 4, generator=g, dtype=F64), torch.randn(20, 4, generator=g, dtype=F64)
    rule = torch.randn(4, 3, generator=g, dtype=F64)
    y, yt = (x @ rule).argmax(1), (xt @ rule).argmax(1)
    y[::7] = (y[::7] + 1) % 3
    l2, weights = 0.02, torch.full((30,), 1 / 30, dtype=F64)
    model = network()
    minimise(model, x, y, l2, weights)
    base = cross_entropy(model(xt), yt, reduction="none").detach()
    # leaving out a hundredth of a sample: retraining then is the derivative that influence claims to be
    actual = torch.empty(20, 8, dtype=F64)
    for i in range(8):
        again = network()
        again.load_state_dict(model.state_dict())
        lighter = weights.clone()
        lighter[i] *= 0.99
        minimise(again, x, y, l2, lighter)
        actual[:, i] = (cross_entropy(again(xt), yt, reduction="none").detach() - base) / 0.01
    whole = influence_scores(model, (x, y), (xt, yt), l2=l2, parameters="all")
    assert whole.gradient_norm < 1e-6
    assert float((whole.scores[:, :8] - actual).abs().max() / actual.abs().max()) < 0.03
    for other in ({"solver": "cg", "tol": 1e-10}, {"solver": "cg", "tol": 1e-10, "batch_size": 7}):
        again = influence_scores(model, (x, y), (xt, yt), l2=l2, parameters="all", **other)
        torch.testing.assert_close(again.scores, whole.scores, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(again.self_scores, whole.self_scores, rtol=1e-6, atol=1e-9)
        assert again.residual < 1e-9
        assert again.iterations > 0
    newton = influence_scores(model, (x, y), (xt, yt), l2=l2, parameters="all", curvature="gauss_newton")
    head = influence_scores(model, (x, y), (xt, yt), l2=l2)
    last = influence_scores(model, (x, y), (xt, yt), l2=l2, parameters="2", curvature="gauss_newton")
    torch.testing.assert_close(head.scores, last.scores, rtol=1e-9, atol=1e-12)
    assert np.corrcoef(newton.scores.ravel(), whole.scores.ravel())[0, 1] > 0.5


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 9), d=st.integers(1, 4), C=st.integers(2, 5), bias=st.booleans(), seed=st.integers(0, 99))
def test_closed_form_equals_autograd(n, d, C, bias, seed):
    g = torch.Generator().manual_seed(seed)
    model = linear(torch.randn(C, d, generator=g, dtype=F64), torch.randn(C, generator=g, dtype=F64) if bias else None)
    x, y = torch.randn(n, d, generator=g, dtype=F64), torch.randint(0, C, (n,), generator=g)
    at = ChosenParameters(model, "all", F64, "test")
    for kind in ("hessian", "gauss_newton"):
        H = dense(curvature_operator(at, [(x, y)], kind, "test"), at.theta())
        point = head_point(x, model(x).detach(), y, bias)
        full = head_hessian(point, Q=torch.eye(C, dtype=F64))
        D = d + bias
        order = torch.cat([torch.arange(C * D).view(C, D)[:, :d].reshape(-1), (torch.arange(C) * D + d)[: C * bias]])
        torch.testing.assert_close(full[order][:, order], H, rtol=1e-10, atol=1e-12)
        reduced = head_hessian(point)
        v = torch.randn(len(reduced), 2, generator=g, dtype=F64)
        torch.testing.assert_close(head_product(point)(v), reduced @ v, rtol=1e-10, atol=1e-12)


def images(n=6):
    g = torch.Generator().manual_seed(0)
    return torch.rand(n, 1, 5, 5, generator=g), torch.arange(n) % 3


def convnet():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3))


def test_a_network_is_left_as_it_was_and_the_picture_draws():
    model = convnet().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = influence_scores(model, images(), images(), l2=1e-2)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model[-1]._forward_hooks
    assert "no minimum" in found.message
    assert bool((found.self_scores > 0).all())
    raw = influence_scores(model, images(), images(), l2=1e-2, scale="raw")
    torch.testing.assert_close(raw.scores, found.scores * 6)
    figure = found.plot(images()[0], images()[0], tests=(0, 2), k=2, classes=("a", "b", "c"))
    assert len(figure.axes) == 10
    single = influence_scores(model, images(), images(), l2=1e-2, dtype=torch.float32)
    torch.testing.assert_close(single.scores.double(), found.scores, rtol=1e-3, atol=1e-6)
    assert found.to_dict()["solver"] == "woodbury"


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = convnet()

    def forward(self, x):
        return self.body(x), x


def test_one_sample_on_either_side():
    x, y = images(1)
    found = influence_scores(convnet(), (x, y), (x, y), l2=1e-2)
    assert found.scores.shape == (1, 1)
    torch.testing.assert_close(found.scores[0], found.self_scores)


BAD = [
    ({"l2": 0.0}, "singular", ArgumentError),
    ({"l2": -1.0}, "l2 must be", ValueError),
    ({"train": (torch.zeros(2, 1, 5, 5), torch.tensor([0, 3]))}, "label 3", ValueError),
    ({"train": (torch.zeros(2, 1, 5, 5), torch.tensor([0.0, 1.0]))}, "integers", TypeError),
    ({"train": (torch.zeros(2, 1, 5, 5), torch.tensor([0]))}, "as many", ValueError),
    ({"train": 3}, "pair", TypeError),
    ({"test": (torch.zeros(1, 2), torch.tensor([0]))}, "does not fit", ValueError),
    ({"head": "0"}, "not a torch.nn.Linear", ValueError),
    ({"head": "7"}, "no part '7'", ValueError),
    ({"parameters": ["9"]}, "no part '9'", ValueError),
    ({"parameters": "all", "solver": "pinv"}, "pinv", ValueError),
    ({"parameters": "all", "solver": "cg", "l2": 1e-9}, "gauss_newton", ArgumentError),
    ({"memory_limit": 1000.0, "solver": "cholesky"}, "float32", MemoryBudgetError),
    ({"memory_limit": 1000.0, "parameters": "all"}, "fewer parameters", MemoryBudgetError),
    ({"model": nn.Flatten()}, "no torch.nn.Linear", ValueError),
    ({"model": 3}, "model must", TypeError),
    ({"model": nn.Sequential(nn.Flatten(), nn.Linear(25, 3), nn.Softmax(1))}, "logits", ValueError),
    ({"model": Pair()}, "does not give the model's logits", ValueError),
    ({"model": Pair(), "parameters": "all"}, "must return logits", ValueError),
    ({"train": (torch.zeros(2, 1, 5, 5, dtype=torch.uint8), torch.tensor([0, 1]))}, "does not fit", ValueError),
    ({"solver": "chol"}, "cholesky", ValueError),
    ({"solver": "woodbury", "l2": 0.0}, "singular", ArgumentError),
    ({"solver": "woodbury", "parameters": "all"}, "woodbury", ValueError),
    ({"solver": "woodbury", "memory_limit": 1000.0}, "float32", MemoryBudgetError),
    ({"dtype": torch.float16}, "dtype", ValueError),
]


@pytest.mark.parametrize(("change", "word", "error"), BAD)
def test_bad_input_is_one_sentence(change, word, error):
    arguments = {"model": convnet(), "train": images(), "test": images(), "l2": 1e-2} | change
    with pytest.raises(error, match=word):
        influence_scores(**arguments)
    if isinstance(arguments["model"], nn.Module):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in arguments["model"].modules())
