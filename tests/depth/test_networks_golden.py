"""Whole networks against the arrays of the released codes, and the parameter counts."""

import warnings

import numpy as np
import pytest
import torch

from gyrostat.depth.change import blocks, refine, set_solver
from gyrostat.depth.convnet import ContinuousNet, WideContinuousNet
from gyrostat.depth.resnet import ResNet
from gyrostat.depth.stages import GridAlignmentWarning
from gyrostat.depth.transformer import (
    ContinuousTagger,
    ContinuousTransformerEncoder,
    TransformerUnit,
    sinusoidal_positions,
)
from gyrostat.numerics.basis import PiecewiseConstant
from gyrostat.numerics.families import parse_basis
from tests.conftest import load_golden

TORCH = {"rk4": "rk4_38", "rk4_classic": "rk4", "euler": "euler", "midpoint": "midpoint"}
JAX = {"Euler": "euler", "Midpoint": "midpoint", "RK4": "rk4", "RK4_38": "rk4_38"}
TOL = {"rtol": 1e-10, "atol": 1e-10}


def count(model):
    return sum(p.numel() for p in model.parameters())


def released_name(path):
    """Our dotted name -> the release's, with ``{}`` for the cell of a statistic."""
    head, _, rest = path.partition(".")
    fixed = {"stem": "net.0", "stem_norm": "net.1"}
    if head in fixed:
        return f"{fixed[head]}.{rest}"
    if head in ("stitches", "blocks"):
        i, _, leaf = rest.partition(".")
        layer = 3 + 2 * int(i)
        if head == "stitches":
            return f"net.{layer}.{leaf}"
        leaf = leaf.removeprefix("theta.").removeprefix("state.").replace("__", ".")
        if leaf.startswith("bn"):
            return f"net.{layer + 1}.net.{leaf.split('.')[0]}.bns.{{}}.{leaf.split('.')[1]}"
        return f"net.{layer + 1}.net.{leaf}"
    return {"head_norm": "net.9.", "head": "net.{last}."}[head] + rest


def released_value(g, prefix, path, k):
    name = released_name(path)
    last = max(int(key.split("net.")[1].split(".")[0]) for key in g if key.startswith(f"{prefix}/net."))
    name = name.replace("{last}", str(last))
    if "{}" in name:
        return np.stack([g[f"{prefix}/{name.format(i)}"] for i in range(k)])
    return g[f"{prefix}/{name}"]


def statistics(net):
    return {p: v for p, v in net.named_buffers() if "running" in p}


@pytest.mark.parametrize("variant", ["v2", "act_first"])
def test_released_continuousnet(variant):
    g = load_golden("depth_torch_continuousnet")
    tag = variant.replace("_", "")
    k, eps = int(g["meta/time_d"]), float(g["meta/epsilon"])
    x = torch.tensor(g[f"{tag}/x"])
    classes = g[f"{tag}/euler/2/logits_eval"].shape[1]

    def build(solver):
        net = ContinuousNet(
            3,
            classes,
            channels=2,
            basis=PiecewiseConstant(k),
            solver=solver,
            scale=eps,
            variant=variant,
            skip_init=variant == "act_first",
            stitch_gate=False,
            stitch_norm=False,
            head_momentum=0.9,
            state_update="sequential",
        ).double()
        with torch.no_grad():
            for path, value in [*net.named_parameters(), *statistics(net).items()]:
                value.copy_(torch.tensor(released_value(g, f"{tag}/param", path, k)))
        return net

    net = build("euler")
    assert net.stitches[0].scale == float(g[f"{tag}/stitch_epsilon"])
    # the release counts the three gates that its act-first stitches never use
    unused = 3 if variant == "act_first" else 0
    assert count(net) + unused == int(g[f"{tag}/n_params"])
    net.eval()
    for name, solver in TORCH.items():
        for n in (2, 4, 8):
            set_solver(net, solver, n)
            np.testing.assert_allclose(net(x).detach(), g[f"{tag}/{name}/{n}/logits_eval"], **TOL)
    finer = refine(set_solver(net, "euler", k))
    assert count(finer) + unused == int(g[f"{tag}/refined/n_params"])
    expected = g[f"{tag}/refined/logits_eval"]
    close = {}
    for name, solver in TORCH.items():
        found = set_solver(finer, solver, 2 * k)(x).detach().numpy()
        close[name] = np.abs(found - expected).max()
    assert min(close.values()) < 1e-10, close

    train = []
    for solver in TORCH.values():
        net = build(solver).train()
        with torch.no_grad():
            y = net(x).numpy()
        worst = np.abs(y - g[f"{tag}/logits_train"]).max()
        for path, value in statistics(net).items():
            worst = max(worst, np.abs(value.numpy() - released_value(g, f"{tag}/after_train", path, k)).max())
        train.append(worst)
    assert min(train) < 1e-10, train


@pytest.mark.parametrize("k", [1, 2, 4, 8, 16, 32])
def test_parameter_counts_of_continuousnet(k):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GridAlignmentWarning)
        net = ContinuousNet(3, 10, basis=PiecewiseConstant(k), solver="euler")
        assert count(net) == 78_330 + 97_440 * k
        act_first = ContinuousNet(3, 10, basis=PiecewiseConstant(k), solver="euler", variant="act_first")
        assert count(act_first) == count(net) + 32


@pytest.mark.parametrize("k", [1, 2, 4, 8, 16])
def test_parameter_and_state_counts_of_the_stateful_classifier(k):
    g = load_golden("depth_jax_counts")
    net = ContinuousNet(3, 10, basis=PiecewiseConstant(k), solver="euler", variant="stateful")
    assert count(net) == int(g[f"params/{k}"])
    assert sum(v.numel() for v in statistics(net).values()) == int(g[f"state/{k}"])


def test_parameter_counts_of_wide_nets_and_baselines():
    assert count(WideContinuousNet(3, 100, basis=PiecewiseConstant(8), solver="euler")) == 13_630_676
    assert [count(ResNet(d)) for d in (20, 50, 56)] == [272_474, 758_554, 855_770]
    assert count(ResNet(58, 3, 100, widen=4)) == 13_631_108
    assert count(TransformerUnit(128, 1, 128)) == 99_072


def put_transformer(unit, get):
    """Copy flax attention, MLP and norms; ``get(name)`` gives one array, stacked over nodes or not."""
    width = get("SelfAttention_0/query/kernel").shape[-3]
    kernels = [get(f"SelfAttention_0/{n}/kernel") for n in ("query", "key", "value")]
    flat = [k.reshape(*k.shape[:-3], width, -1).swapaxes(-1, -2) for k in kernels]
    out = get("SelfAttention_0/out/kernel")
    values = {
        "qkv.weight": np.concatenate(flat, axis=-2),
        "out.weight": out.reshape(*out.shape[:-3], -1, width).swapaxes(-1, -2),
        "linear1.weight": get("MlpBlock_0/Dense_0/kernel").swapaxes(-1, -2),
        "linear1.bias": get("MlpBlock_0/Dense_0/bias"),
        "linear2.weight": get("MlpBlock_0/Dense_1/kernel").swapaxes(-1, -2),
        "linear2.bias": get("MlpBlock_0/Dense_1/bias"),
    }
    for i in (0, 1):
        values[f"norm{i + 1}.weight"] = get(f"LayerNorm_{i}/scale")
        values[f"norm{i + 1}.bias"] = get(f"LayerNorm_{i}/bias")
    with torch.no_grad():
        for name, value in values.items():
            unit(name).copy_(torch.tensor(np.ascontiguousarray(value)))


def test_released_transformer_rate_and_tagger():
    g = load_golden("depth_jax_transformer")
    unit = TransformerUnit(8, 2, 12).double()
    put_transformer(unit.get_parameter, lambda name: g[f"rate/params/{name}"])
    np.testing.assert_allclose(unit(torch.tensor(g["rate/x"])).detach(), g["rate/y"], **TOL)
    # born in float32 in the release
    np.testing.assert_allclose(sinusoidal_positions(7, 8), g["posemb"][0], rtol=1e-6, atol=1e-6)
    tokens = torch.tensor(g["tokens"]).long()
    done = 0
    for prefix in sorted({k.removesuffix("/logits") for k in g if k.endswith("/logits")}):
        _, solver, basis_word = prefix.split("/")
        name, n = solver.rsplit("_", 1)
        basis = parse_basis(":".join(basis_word.rsplit("_", 1)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GridAlignmentWarning)
            net = ContinuousTagger(
                11, 6, embed_dim=8, num_heads=2, mlp_dim=12, mask=False, basis=basis, solver=JAX[name], n_steps=int(n),
                open_set="legacy_jax",
            ).double()  # fmt: skip
        net.positions = torch.tensor(g["posemb"][0]).double()
        p = f"{prefix}/params"
        with torch.no_grad():
            net.embedding.weight.copy_(torch.tensor(g[f"{p}/embed/embedding"]))
            net.norm.weight.copy_(torch.tensor(g[f"{p}/LayerNorm_0/scale"]))
            net.norm.bias.copy_(torch.tensor(g[f"{p}/LayerNorm_0/bias"]))
            net.head.weight.copy_(torch.tensor(g[f"{p}/Dense_0/kernel"].T))
            net.head.bias.copy_(torch.tensor(g[f"{p}/Dense_0/bias"]))
        nodes = f"{p}/ContinuousBlock_0/ode_params"
        put_transformer(
            net.encoder.block.theta.get,
            lambda leaf, nodes=nodes, k=basis.K: np.stack([g[f"{nodes}/{i}/params/{leaf}"] for i in range(k)]),
        )
        np.testing.assert_allclose(net.train()(tokens).detach(), g[f"{prefix}/logits"], **TOL, err_msg=prefix)
        assert float(g[f"{prefix}/train_equals_eval_maxdiff"]) == 0  # the release's dropout never acts
        done += 1
    assert done >= 2


def test_padding_never_reaches_a_real_token():
    encoder = ContinuousTransformerEncoder(8, 2, basis=PiecewiseConstant(2)).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    y = encoder(x, mask)
    other = x.clone()
    other[1, 3:] = 1e3
    assert torch.equal(encoder(other, mask)[1, :3], y[1, :3])
    free = ContinuousTransformerEncoder(8, 2, basis=PiecewiseConstant(2), mask=False).double()
    assert not torch.equal(free(other, mask)[1, :3], free(x, mask)[1, :3])


def test_dropout_acts_in_training_only():
    encoder = ContinuousTransformerEncoder(8, 2, basis=PiecewiseConstant(2), dropout=0.3)
    x = torch.randn(2, 5, 8)
    assert not torch.equal(encoder.train()(x), encoder.train()(x))
    assert torch.equal(encoder.eval()(x), encoder.eval()(x))


def test_small_networks_of_all_variants_learn_a_step():
    x, y = torch.randn(8, 1, 12, 12), torch.arange(8) % 3
    for options in ({"variant": "v2"}, {"variant": "act_first", "skip_init": True}, {"variant": "stateful"}):
        net = ContinuousNet(1, 3, channels=4, basis=PiecewiseConstant(2), solver="midpoint", segments=2, **options)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        losses = []
        for _ in range(8):
            loss = torch.nn.functional.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        assert all(p.grad is not None for p in net.parameters())
        assert len(blocks(net)) == 2
