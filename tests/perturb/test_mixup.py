"""NoisyFeatureMixup around any model: special cases, hooks, targets, and the company of torch's other machinery."""

import copy
import os
import pickle
import socket

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gyrostat import NoisyFeatureMixup
from gyrostat.numerics.noise import beta, seeded_noise
from gyrostat.perturb.draw import MixDraw, noisy_mix, sample_draw
from gyrostat.perturb.mixup import METHODS
from gyrostat.perturb.target import MixedTarget

F64 = torch.float64
LAYERS = ["input", "0", "2"]


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def net(seed=0, dtype=F64):
    g = stream(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=dtype)
    return model


def batch(n=7, dtype=F64):
    return torch.randn(n, 4, generator=stream(5), dtype=dtype), torch.arange(n) % 3


def gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()))


# the paper's special cases


def test_settings_of_level_zero_are_the_plain_model_bit_for_bit():
    x, y = batch()
    model = net()
    nfm = NoisyFeatureMixup.named("baseline", model, LAYERS)
    output, target = nfm(x, y)
    assert torch.equal(output, model(x))
    assert torch.equal(target.loss(output), F.cross_entropy(output, y, reduction="none").mean())
    noise = NoisyFeatureMixup(model, LAYERS, alpha=0, additive=0.5, generator=stream())
    output, target = noise(x, y)
    assert target.lam == 1.0
    assert not torch.equal(output, model(x))
    model.eval()
    for wrapped in (noise, NoisyFeatureMixup(model, LAYERS)):
        assert torch.equal(wrapped(x, y)[0], model(x))
        assert wrapped(x, y)[1].lam == 1.0


@pytest.mark.parametrize("n", [1, 2, 7])
def test_mixup_is_mixup(n):
    x, y = batch(n)
    model = net()
    nfm = NoisyFeatureMixup.named("mixup", model, LAYERS, generator=stream(3))
    output, target = nfm(x, y)
    draw = sample_draw(n, ["input"], additive=0, multiplicative=0, generator=stream(3))
    lam, perm = float(draw.lam), draw.perm
    torch.testing.assert_close(output, model(lam * x + (1 - lam) * x[perm]))
    expected = lam * F.cross_entropy(output, y) + (1 - lam) * F.cross_entropy(output, y[perm])
    torch.testing.assert_close(target.loss(output), expected)
    torch.testing.assert_close(F.cross_entropy(output, target.soft(3).double()), expected, rtol=1e-6, atol=1e-6)
    assert sorted(perm.tolist()) == list(range(n))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_gradients_equal_those_of_a_network_split_by_hand(layer, per_sample):
    x, y = batch()
    model = net()
    nfm = NoisyFeatureMixup(model, LAYERS, per_sample=per_sample)
    draw = sample_draw(7, [layer], per_sample=per_sample, generator=stream(2))
    output, target = nfm(x, y, draw=draw)
    k = 0 if layer == "input" else int(layer) + 1
    h = model[:k](x)
    split = model[k:](noisy_mix(h, draw))
    lam = draw.lam.view(-1, 1)
    Z, U = seeded_noise(h, draw.seed_add, "normal"), 2 * seeded_noise(h, draw.seed_mult, "uniform") - 1
    m = lam * h + (1 - lam) * h[draw.perm]
    by_hand = model[k:]((1 + 0.2 * draw.beta_mult * U) * m + 0.4 * draw.beta_add * Z)
    torch.testing.assert_close(output, by_hand, rtol=1e-12, atol=1e-12)
    each = F.cross_entropy(by_hand, y, reduction="none"), F.cross_entropy(by_hand, y[draw.perm], reduction="none")
    loss = (draw.lam * each[0] + (1 - draw.lam) * each[1]).mean()
    torch.testing.assert_close(target.loss(output), loss, rtol=1e-12, atol=1e-12)
    for a, b in zip(gradients(model, target.loss(output)), gradients(model, loss)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(split, output)


# draws


@pytest.mark.parametrize("alpha", [1e-8, 1e-3, 0.05, 0.2, 1.0, 2.0])
def test_lambda_has_the_moments_of_beta_for_small_alpha_too(alpha):
    n = 40_000
    lam = beta(alpha, alpha, (n,), generator=stream())
    var = 1 / (4 * (2 * alpha + 1))
    # six standard errors of a mean, and of a variance of a variable in [0, 1]
    assert abs(lam.mean().item() - 0.5) < 6 * (var / n) ** 0.5
    assert abs(lam.var().item() - var) < 6 * 0.25 / n**0.5
    if alpha == 1e-8:
        assert bool(((lam == 0) | (lam == 1)).all())


def test_each_term_alone_has_its_variance():
    b = beta(2.0, 5.0, (40_000,), generator=stream())
    assert b.mean().item() == pytest.approx(2 / 7, abs=6 * 0.16 / 200)
    h = torch.full((50, 8), 2.0, dtype=F64)
    for levels, var in (((0.4, 0.0), 0.4**2 * 3 / 28), ((0.0, 0.2), 4 * 0.2**2 / 28)):
        kw = dict(zip(("additive", "multiplicative"), levels))
        g = stream(1)
        found = [noisy_mix(h, sample_draw(1, ["input"], alpha=0, **kw, generator=g), **kw) - h for _ in range(600)]
        # the scale b is one per draw: 600 of them leave about 5 % on the variance
        assert torch.stack(found).var().item() == pytest.approx(var, rel=0.2)


def test_a_seed_is_a_result_and_layers_are_drawn_as_asked():
    x, y = batch()
    one, two = (NoisyFeatureMixup(net(), LAYERS, generator=stream(4)) for _ in range(2))
    for _ in range(3):
        assert torch.equal(one(x, y)[0], two(x, y)[0])
    before = torch.get_rng_state()
    one(x, y)
    assert torch.equal(before, torch.get_rng_state())
    g = stream()
    seen = [sample_draw(3, LAYERS, layer_probs=[0, 1, 3], generator=g).layer for _ in range(400)]
    assert "input" not in seen
    assert 0.15 < seen.count("0") / 400 < 0.35
    half = NoisyFeatureMixup(net(), LAYERS, prob=0.5, generator=stream(0))
    touched = [not torch.equal(half(x, y)[0], half.model(x)) for _ in range(60)]
    assert 15 < sum(touched) < 45
    half.prob = 0
    assert torch.equal(half(x, y)[0], half.model(x))


def test_relative_noise_follows_the_scale_of_the_feature():
    x, _ = batch()
    draw = sample_draw(7, ["input"], alpha=0, multiplicative=0, generator=stream())
    small, large = (noisy_mix(s * x, draw, multiplicative=0, relative=True) / s for s in (0.01, 100.0))
    torch.testing.assert_close(small, large)


# shapes: any rank, tuples, tokens, time first


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 5), rest=st.lists(st.integers(1, 4), min_size=0, max_size=3), per_sample=st.booleans(),
    dim=st.integers(0, 2), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_rank_and_batch(n, rest, per_sample, dim, seed):
    dim = min(dim, len(rest))
    shape = [*rest[:dim], n, *rest[dim:]]
    h = torch.randn(shape, generator=stream(seed), dtype=F64)
    draw = sample_draw(n, ["input"], multiplicative=0.1, per_sample=per_sample, generator=stream(seed))
    found = noisy_mix(h, draw, additive=0.0, multiplicative=0.0, batch_dim=dim).movedim(dim, 0)
    first = h.movedim(dim, 0)
    for i, row in enumerate(found):
        lam = float(draw.lam[i]) if per_sample else float(draw.lam)
        torch.testing.assert_close(row, lam * first[i] + (1 - lam) * first[draw.perm[i]])


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(9, 5), nn.LSTM(5, 4), nn.Linear(4, 3)

    def forward(self, tokens):
        h, state = self.rnn(self.embed(tokens).transpose(0, 1))
        return {"logits": self.head(h).transpose(0, 1).transpose(1, 2), "state": state}


def test_tokens_time_first_tuples_and_a_class_per_position():
    tokens, y = torch.randint(9, (3, 6), generator=stream()), torch.randint(3, (3, 6), generator=stream(1))
    model = Tagger().double()
    nfm = NoisyFeatureMixup(
        model, ["embed", "rnn"], batch_dim={"rnn": 1}, select={"rnn": 0}, additive=0.0, multiplicative=0.0
    )
    draw = MixDraw("rnn", torch.tensor(0.3), torch.tensor([2, 0, 1]))
    output, target = nfm(tokens, y, draw=draw)
    h = model.rnn(model.embed(tokens).transpose(0, 1))[0]
    mixed = model.head(0.3 * h + 0.7 * h[:, [2, 0, 1]]).transpose(0, 1).transpose(1, 2)
    torch.testing.assert_close(output["logits"], mixed)
    assert target.loss(output["logits"]).requires_grad
    assert target.soft(3).shape == (3, 6, 3)
    assert nfm(tokens, y, draw=MixDraw("embed", torch.tensor(0.3), torch.tensor([2, 0, 1])))[0]["logits"].shape == (
        3,
        3,
        6,
    )
    with pytest.raises(TypeError, match="embedding"):
        NoisyFeatureMixup(model, ["input"])(tokens, y)
    with pytest.raises(ValueError, match=r"select which part is mixed, of \[0, 1\]"):
        NoisyFeatureMixup(model, ["rnn"])(tokens, y)
    with pytest.raises(RuntimeError, match="batch_dim"):
        NoisyFeatureMixup(model, ["rnn"], select=0)(tokens, y)
    with pytest.raises(ValueError, match="no tensor among"):
        NoisyFeatureMixup(model, ["rnn"], select=1)(tokens, y)


def test_inputs_of_several_parts():
    class Two(nn.Module):
        def forward(self, parts):
            return parts["a"].sum((1, 2), keepdim=False)[:, None] + parts["b"]

    x = {"a": torch.randn(4, 2, 3), "b": torch.randn(4, 2), "name": "kept"}
    nfm = NoisyFeatureMixup(Two(), ["input"], select=("a", "b"), additive=0, multiplicative=0)
    draw = MixDraw("input", torch.tensor(0.25), torch.tensor([3, 2, 1, 0]))
    whole = Two()(x)
    torch.testing.assert_close(nfm(x, torch.zeros(4).long(), draw=draw)[0], 0.25 * whole + 0.75 * whole.flip(0))


def test_regression_several_labels_and_criteria():
    target = MixedTarget(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]), 0.75)
    f = torch.randn(2, 2, generator=stream()).requires_grad_()
    bce = target.loss(f, F.binary_cross_entropy_with_logits)
    torch.testing.assert_close(bce, F.binary_cross_entropy_with_logits(f, target.soft()))
    mse, soft = target.loss(f, F.mse_loss), F.mse_loss(f, target.soft())
    constant = 0.75 * 0.25 * ((target.y_a - target.y_b) ** 2).mean()
    torch.testing.assert_close(mse, soft + constant)  # not affine in the target: the spec's constant
    torch.testing.assert_close(torch.autograd.grad(mse, f)[0], torch.autograd.grad(soft, f)[0])
    each = MixedTarget(target.y_a, target.y_b, torch.tensor([0.2, 0.9]))
    found = each.loss(f, nn.MSELoss(reduction="none"))
    rows = [MixedTarget(target.y_a[i], target.y_b[i], v).loss(f[i], F.mse_loss) for i, v in enumerate((0.2, 0.9))]
    torch.testing.assert_close(found, torch.stack(rows).mean())
    with pytest.raises(ValueError, match="reduction='none'"):
        each.loss(f, F.mse_loss)
    with pytest.raises(TypeError, match="criterion"):
        target.loss(f)
    labels = MixedTarget(torch.tensor([0, 1]), torch.tensor([1, 1]), 0.5)
    assert labels.accuracy(torch.tensor([[0.0, 1.0], [0.0, 1.0]])) == 0.75
    torch.testing.assert_close(labels.soft(2, smoothing=0.2)[0], torch.tensor([0.5, 0.5]))
    for output, error, word in (
        (torch.zeros(2), RuntimeError, "logits"), (torch.zeros(2, 5, 5), RuntimeError, "dimension 1"),
        (torch.zeros(2, 1), ValueError, "labels must be 0 to 0, got 0 to 1"),
    ):  # fmt: skip
        with pytest.raises(error, match=word):
            labels.loss(output)
    with pytest.raises(ValueError, match="num_classes"):
        labels.soft()


# hooks


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.cell(self.cell(x))


def test_reuse_absence_and_removal():
    x, y = torch.randn(3, 4), torch.arange(3)
    model = Twice()
    with NoisyFeatureMixup(model, ["cell"]) as nfm, pytest.raises(RuntimeError, match="ran 2 times"):
        nfm(x, y)
    with NoisyFeatureMixup(model, ["spare"]) as nfm, pytest.raises(RuntimeError, match="did not run"):
        nfm(x, y)
    with NoisyFeatureMixup(model, ["cell"], on_reuse="first", additive=0, multiplicative=0) as nfm:
        output, _ = nfm(x, y, draw=MixDraw("cell", torch.tensor(0.25), torch.tensor([1, 2, 0])))
        h = model.cell(x)
        torch.testing.assert_close(output, model.cell(0.25 * h + 0.75 * h[[1, 2, 0]]))
    with pytest.raises(ValueError, match="did you mean"), NoisyFeatureMixup(model, ["cell", "spar"]):
        pass
    assert not model.cell._forward_hooks
    assert not model.spare._forward_hooks


def test_an_exception_leaves_the_plain_model():
    model = net()
    x, y = batch()
    nfm = NoisyFeatureMixup(model, ["0"])
    with pytest.raises(RuntimeError, match="shape"):
        nfm(torch.zeros(7, 5, dtype=F64), y)
    plain = net()
    assert torch.equal(model(x), plain(x))
    with pytest.raises(RuntimeError, match="samples of y"):
        nfm(x, y[:3])
    assert torch.equal(model(x), plain(x))
    # a backward pass that dies must not leave its draw behind either
    output, target = nfm(x, y)
    output.register_hook(lambda g: (_ for _ in ()).throw(KeyError("stop")))
    with pytest.raises(KeyError):
        target.loss(output).backward()
    assert torch.equal(model(x), plain(x))


def test_the_model_stays_its_own():
    model, x = net(), batch()[0]
    keys = list(model.state_dict())
    nfm = NoisyFeatureMixup(model, LAYERS, generator=stream())
    nfm(*batch())
    assert list(model.state_dict()) == keys
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
    twin = pickle.loads(pickle.dumps(nfm))
    assert torch.equal(twin(*batch())[0], nfm(*batch())[0])
    nfm.close()
    assert all(not m._forward_hooks for m in model.modules())
    assert NoisyFeatureMixup.suggest(model) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("change", "word", "error"),
    [
        ({"layers": ["layr"]}, "layr", ValueError),
        ({"layers": ["inputs"]}, "did you mean 'input'", ValueError),
        ({"layers": []}, "layers", ValueError),
        ({"layers": "input"}, "layers", ValueError),
        ({"layers": ["0", "0"]}, "layers", ValueError),
        ({"alpha": -0.1}, "alpha", ValueError),
        ({"alpha": (0.0, 1.0)}, "alpha", ValueError),
        ({"alpha": (1.0,)}, "a pair", ValueError),
        ({"alpha": "1"}, "alpha", TypeError),
        ({"additive": -1}, "additive", ValueError),
        ({"multiplicative": float("nan")}, "multiplicative", ValueError),
        ({"prob": 1.5}, "prob", ValueError),
        ({"noise_scale": "relativ"}, "did you mean 'relative'", ValueError),
        ({"layer_probs": [1, 2]}, "layer_probs", ValueError),
        ({"model": len}, "torch.nn.Module", TypeError),
        ({"model": nn.DataParallel(nn.Linear(2, 2))}, "DataParallel", TypeError),
    ],
)
def test_bad_arguments_are_named(change, word, error):
    arguments = {"model": net(), "layers": ["0"]} | change
    with pytest.raises(error, match=word):
        NoisyFeatureMixup(**arguments)


def test_bad_calls_are_named():
    nfm = NoisyFeatureMixup(net(), ["0"])
    x, y = batch()
    with pytest.raises(TypeError, match="y must"):
        nfm(x, 3)
    with pytest.raises(ValueError, match="none of"):
        nfm(x, y, draw=MixDraw("1"))
    with pytest.raises(RuntimeError, match="perm must have 7"):
        nfm(x, y, draw=MixDraw("0", torch.tensor(0.5), torch.arange(3)))
    with pytest.raises(RuntimeError, match="noise has shape"):
        nfm(x, y, draw=MixDraw("0", beta_add=torch.tensor(0.5), normal=torch.zeros(2)))
    with pytest.raises(ValueError, match="method must be one of"):
        NoisyFeatureMixup.named("manifolt", net(), ["0"])
    assert set(METHODS) >= {"baseline", "mixup", "manifold", "noisy-mixup", "noise", "nfm"}


# checkpointing, compiling, mixed precision, two processes


class Blocks(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.a, self.b, self.c, self.mode = net(1), nn.Linear(3, 4).double(), net(2), mode
        nn.init.eye_(self.b.weight)
        nn.init.zeros_(self.b.bias)

    def forward(self, x):
        def run(part, h):
            return part(h) if self.mode is None else checkpoint(part, h, use_reentrant=self.mode)

        return run(self.c, run(self.b, run(self.a, x)))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("layer", ["a.0", "a", "b", "c.2"])
def test_checkpointing_replays_the_same_draw(reentrant, layer):
    x, y = batch()
    x.requires_grad_()
    found = []
    for mode in (None, reentrant):
        nfm = NoisyFeatureMixup(Blocks(mode), [layer], generator=stream(8))
        first, second = nfm(x, y), nfm(x, y)  # two passes are open when the backward pass starts
        loss = first[1].loss(first[0]) + 2 * second[1].loss(second[0])
        loss.backward()
        found.append([p.grad.clone() for p in nfm.model.parameters()])
        assert torch.equal(nfm.model(x), Blocks(None)(x))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def test_a_recomputed_reuse_is_refused():
    class Reused(Twice):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False)

    nfm = NoisyFeatureMixup(Reused(), ["cell"], on_reuse="first")
    output, target = nfm(torch.randn(3, 4), torch.arange(3))
    with pytest.raises(RuntimeError, match="ran several times"):
        target.loss(output).backward()


def test_compiled_without_graph_breaks():
    x, y = batch()
    eager = NoisyFeatureMixup(net(), LAYERS, generator=stream(3))
    compiled = NoisyFeatureMixup(
        torch.compile(net(), backend="aot_eager", fullgraph=True), LAYERS, generator=stream(3)
    )  # fmt: skip
    torch._dynamo.utils.counters.clear()
    for _ in range(9):
        (a, ta), (b, tb) = eager(x, y), compiled(x, y)
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        for ga, gb in zip(gradients(eager.model, ta.loss(a)), gradients(compiled.model, tb.loss(b))):
            torch.testing.assert_close(ga, gb, rtol=1e-10, atol=1e-12)
    # one graph for each layer and one for the untouched model: new draws compile nothing
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3


def test_a_compiled_part_inside_a_checkpoint_replays_its_draw():
    class Outer(nn.Module):
        def __init__(self, compiled):
            super().__init__()
            self.body, self.head = net(), nn.Linear(3, 3, bias=False).double()
            nn.init.eye_(self.head.weight)
            self.run = [torch.compile(self.body, backend="aot_eager") if compiled else self.body]

        def forward(self, x):
            return self.head(checkpoint(self.run[0], x, use_reentrant=False))

    x, y = batch()
    found = []
    for compiled in (False, True):
        nfm = NoisyFeatureMixup(Outer(compiled), ["body.2"], generator=stream(3))
        output, target = nfm(x, y)
        target.loss(output).backward()
        found.append([p.grad for p in nfm.model.parameters()])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_autocast_keeps_labels_and_the_feature_dtype():
    x, y = batch(dtype=torch.float32)
    nfm = NoisyFeatureMixup(net(dtype=torch.float32), ["0"], generator=stream())
    seen = []
    nfm.model[1].register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, target = nfm(x, y)
        loss = target.loss(output)
    loss.backward()
    assert seen == [torch.bfloat16]
    assert target.y_b.dtype == torch.int64
    assert all(torch.isfinite(p.grad).all() for p in nfm.model.parameters())


def _worker(rank, port, results):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    nfm = NoisyFeatureMixup(nn.parallel.DistributedDataParallel(net()), LAYERS, generator=stream(rank))
    x, y = batch(8)
    for _ in range(3):
        output, target = nfm(x[rank::2], y[rank::2])
        target.loss(output).backward()
    results[rank] = [p.grad.numpy() for p in nfm.model.parameters()]
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_mean_of_their_own_gradients():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with torch.multiprocessing.get_context("spawn").Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(_worker, (port, results), nprocs=2)
        first, second = results[0], results[1]
    x, y = batch(8)
    expected = [torch.zeros_like(p) for p in net().parameters()]
    for rank in (0, 1):
        nfm = NoisyFeatureMixup(net(), LAYERS, generator=stream(rank))
        for _ in range(3):
            output, target = nfm(x[rank::2], y[rank::2])
            for total, g in zip(expected, gradients(nfm.model, target.loss(output))):
                total += g / 2
    for a, b, e in zip(first, second, expected):
        np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(a, b)
