"""Values and gradients of every released cell, from golden arrays made with the reference implementations in float64."""

import json

import numpy as np
import pytest
import torch

from gyrostat import LEM, AntisymmetricRNN, ElmanRNN, LipschitzRNN, NoisyRNN, ResidualRNN
from tests.conftest import golden_names, load_golden

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}  # golden/README: lipschitz_* and noisy_* cells
LEM_VALUE, LEM_GRADIENT = {"rtol": 1e-9, "atol": 1e-11}, {"rtol": 1e-8, "atol": 1e-9}


def tensors(golden: dict, prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in golden.items() if k.startswith(prefix)}


def close(ours, golden, **tolerance):
    torch.testing.assert_close(ours, torch.as_tensor(golden, dtype=torch.float64), **(tolerance or TOLERANCE))


def released_model(golden: dict):
    """The golden file's model as one of our layers, and the map from our parameter names to the file's."""
    p = tensors(golden, "param/")
    model, solver = str(golden["model"]), str(golden["solver"])
    dt = float(golden["eps_used"])
    beta, gamma, alpha = (float(golden[k]) for k in ("beta", "gamma", "alpha"))
    if model.startswith("LipschitzRNN"):
        names = {"euler": "euler", "midpoint": "midpoint", "heun2": "heun", "rk4": "rk4_38"}
        shape = {"beta_a": beta, "beta_w": beta, "gamma_a": gamma, "gamma_w": gamma}
        layer = LipschitzRNN.from_released(
            p, dt=dt, alpha=1.0 if model.endswith("ODE") else alpha, solver=names.get(solver, "euler"), **shape
        )
        return layer
    if model == "asymRNN":
        return AntisymmetricRNN.from_released(p, dt=dt, gamma=gamma)
    kind = {"resRNN": ResidualRNN, "simpleRNN": ElmanRNN}[model]
    H, F = p["E.weight"].shape
    layer = kind(F, H, dtype=torch.float64, **({"dt": dt} if kind is ResidualRNN else {}))
    layer.load_state_dict({"weight_ih_l0": p["E.weight"], "bias_l0": p["E.bias"], "weight_hh_l0": p["W.weight"]})
    return layer


GRADIENTS = {
    "weight_ih_l0": "E.weight",
    "bias_l0": "E.bias",
    "weight_gate_l0": "E_gate.weight",
    "bias_gate_l0": "E_gate.bias",
}
MATRICES = {"m_a_l0": "B", "m_w_l0": "C"}
CELLS = [n for n in golden_names("lipschitz_*") if "analysis" not in n and "cases" not in n and "cayley" not in n]


def check_gradients(layer, golden, skip=()):
    theirs = {k.removeprefix("func."): v for k, v in tensors(golden, "grad/").items()}
    compared = 0
    for ours, parameter in layer.named_parameters():
        if ours in MATRICES:
            close(parameter.grad, theirs[MATRICES[ours]].T)
        elif ours in GRADIENTS:
            close(parameter.grad, theirs[GRADIENTS[ours]])
        elif ours == "weight_hh_l0":
            close(parameter.grad, theirs["W.weight"])
        elif ours == "dt_l0" and "dt_l0" not in skip:
            close(parameter.grad, theirs["d"])
        else:
            continue
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("name", CELLS)
def test_lipschitz_family(name):
    g = load_golden(name)
    layer = released_model(g)
    x = torch.from_numpy(g["x"]).requires_grad_()
    layer.batch_first = True
    h_all, h_n = layer(x)
    close(h_all, g["h_all"])
    close(h_n[0], g["h_final"])
    p = tensors(g, "param/")
    y = torch.nn.functional.linear(h_n[0], p["D.weight"], p["D.bias"])
    close(y, g["y"])
    (y * torch.from_numpy(g["R"])).sum().backward()
    close(x.grad, g["grad_x"])
    check_gradients(layer, g)


NOISY = [n for n in golden_names("noisy_*") if "regularizer" not in n]


@pytest.mark.parametrize("name", NOISY)
def test_noisy_family(name):
    g = load_golden(name)
    p = tensors(g, "param/")
    noisy_solver = str(g["solver"]) == "noisy"
    if not noisy_solver:
        del p["d"]
    layer = NoisyRNN.from_released(
        p, dt=float(g["eps"]), alpha=float(g["alpha"]), beta_a=float(g["beta"]), beta_w=float(g["beta"]),
        gamma_a=float(g["gamma_A"]), gamma_w=float(g["gamma_W"]), noise_form="released", batch_first=True,
    ).eval()  # fmt: skip
    x = torch.from_numpy(g["x"]).requires_grad_()
    noise = None
    if int(g["noise_is_used"]):
        noise = tuple(torch.from_numpy(g[k]).transpose(0, 1) for k in ("add_term", "mult_factor"))
    _, h_n = layer(x, noise=noise)
    close(h_n[0], g["h_final"])
    y = torch.nn.functional.linear(h_n[0], p["D.weight"], p["D.bias"])
    close(y, g["y"])
    (y * torch.from_numpy(g["R"])).sum().backward()
    close(x.grad, g["grad_x"])
    check_gradients(layer, g)


@pytest.mark.parametrize("name", ["lem_seq_small", "lem_seq_init", "lem_seq_long", "lem_seq_saturated"])
def test_lem_sequences(name):
    g = load_golden(name)
    layer = LEM.from_released(tensors(g, "param/"), dt=float(g["dt"]))
    x, y0, z0 = (torch.from_numpy(g[k]).requires_grad_() for k in ("input", "y0", "z0"))
    y, z, (y_n, _) = layer.forward_states(x, (y0[None], z0[None]))
    close(y, g["y"], **LEM_VALUE)
    close(z, g["z"], **LEM_VALUE)
    close(y_n[0], g["y"][-1], **LEM_VALUE)
    loss = (y * torch.from_numpy(g["R_y"])).sum() + (z * torch.from_numpy(g["R_z"])).sum()
    close(loss, g["loss"], **LEM_VALUE)
    loss.backward()
    for ours, key in ((x, "input"), (y0, "y0"), (z0, "z0")):
        close(ours.grad, g[f"grad/{key}"], **LEM_GRADIENT)
    grads = {n: q.grad for n, q in layer.named_parameters()}
    back = LEM(layer.input_size, layer.hidden_size, dtype=torch.float64)
    back.load_state_dict(grads)
    for key, value in back.to_released().items():
        close(value, g[f"grad/{key}"], **LEM_GRADIENT)
    for wrong in ("wrong_stale_z_y", "wrong_swapped_steps_y"):
        if wrong in g:
            gap = np.abs(g[wrong] - g["y"]).max()
            assert np.abs(y.detach().numpy() - g[wrong]).max() > gap / 2


def test_lem_cell_step():
    g = load_golden("lem_cell_step")
    layer = LEM.from_released(tensors(g, "param/"), dt=float(g["dt"]))
    x = torch.from_numpy(g["input"])
    y, (_, z_n) = layer(x, (torch.from_numpy(g["y0"])[None], torch.from_numpy(g["z0"])[None]))
    close(y, g["y"], **LEM_VALUE)
    close(z_n, g["z"], **LEM_VALUE)
    for wrong in ("wrong_stale_z_y", "wrong_swapped_steps_y"):
        gap = np.abs(g[wrong] - g["y"]).max()
        assert np.abs(y.detach().numpy() - g[wrong]).max() > gap / 2


@pytest.mark.parametrize("name", ["lem_stack2_uni", "lem_stack2_bidir"])
def test_lem_stacks(name):
    g = load_golden(name)
    both = name.endswith("bidir")
    parts = {}
    for k in range(2):
        for d in range(2 if both else 1):
            one = LEM.from_released(tensors(g, f"param/l{k}_d{d}/")).state_dict()
            parts |= {n.replace("_l0", f"_l{k}" + ("_reverse" if d else "")): v for n, v in one.items()}
    m, n = g["input"].shape[-1], g["y0"].shape[-1]
    dt = [float(v) for v in np.broadcast_to(g["dt"], (2,))]
    layer = LEM(m, n, 2, bidirectional=both, dt=dt, dtype=torch.float64)
    layer.load_state_dict(parts)
    x = torch.from_numpy(g["input"]).requires_grad_()
    output, (y_n, z_n) = layer(x, (torch.from_numpy(g["y0"]), torch.from_numpy(g["z0"])))
    close(output, g["output"], **LEM_VALUE)
    close(y_n, g["y_n"], **LEM_VALUE)
    close(z_n, g["z_n"], **LEM_VALUE)


def test_lem_packed():
    g = load_golden("lem_packed")
    layer = LEM.from_released(tensors(g, "param/"), dt=float(g["dt"]))
    x = torch.from_numpy(g["input"]).requires_grad_()
    state = tuple(torch.from_numpy(g[k])[None] for k in ("y0", "z0")) if "y0" in g else None
    y, (y_n, z_n) = layer(x, state, lengths=torch.from_numpy(g["lengths"]))
    close(y, g["y"], **LEM_VALUE)
    close(y_n[0], g["y_n"], **LEM_VALUE)
    close(z_n[0], g["z_n"], **LEM_VALUE)


def test_lem_cuda_layout_round_trip():
    g = load_golden("lem_cuda_layout")
    layer = LEM.from_released(tensors(g, "param/"), dt=float(g["dt"]))
    packed = layer.to_lem_cuda()
    again = LEM.from_lem_cuda(packed, dt=float(g["dt"]))
    x = torch.from_numpy(g["input"])
    state = tuple(torch.from_numpy(g[k])[None] for k in ("y0", "z0"))
    torch.testing.assert_close(again(x, state)[0], layer(x, state)[0], rtol=1e-13, atol=1e-13)
    for key, value in packed.items():
        found = [k for k in g if k.split("/")[-1] == key and g[k].shape == tuple(value.shape) and "grad" not in k]
        assert found, (key, sorted(g))
        close(value, g[found[0]], **LEM_VALUE)


def test_lem_contains_an_lstm():
    g = load_golden("lem_lstm_case")
    layer = LEM.from_released(tensors(g, "param/"))
    y, (_, z_n) = layer(torch.from_numpy(g["input"]))
    close(y, g["lstm_output"], rtol=0, atol=1e-14)
    close(z_n.reshape(-1), g["lstm_c_n"].reshape(-1), rtol=0, atol=1e-14)


def test_lem_converges_to_its_ode_with_order_one():
    g = load_golden("lem_ode_limit")
    layer = LEM.from_released(tensors(g, "param/"))
    freq, phase, S = (torch.from_numpy(np.asarray(g[k])) for k in ("freq", "phase", "S"))
    errors = []
    for N in (int(n) for n in g["N"]):
        s = torch.arange(1, N + 1, dtype=torch.float64)[:, None] * (S / N)
        _, (y_n, z_n) = layer(torch.sin(freq * s + phase)[:, None, :], dt=float(S) / N)
        errors.append(max((y_n.flatten() - torch.from_numpy(g["y_ref"]).flatten()).abs().max().item(),
                          (z_n.flatten() - torch.from_numpy(g["z_ref"]).flatten()).abs().max().item()))  # fmt: skip
    orders = np.diff(-np.log(errors)) / np.diff(np.log([int(n) for n in g["N"]]))
    assert ((orders > 0.95) & (orders < 1.05)).all(), orders


def test_golden_meta_is_readable():
    assert json.loads(str(load_golden("lipschitz_euler")["meta"]))
