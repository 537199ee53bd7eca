"""Noisy Feature Mixup against the recorded draws of the reference implementation, values and gradients, in float64."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gyrostat.numerics.noise import feature_noise, impulse_pixels
from gyrostat.perturb.draw import MixDraw, noisy_mix
from gyrostat.perturb.mixup import NoisyFeatureMixup
from gyrostat.perturb.target import MixedTarget
from tests.conftest import golden_names, load_golden

F64 = torch.float64
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def recorded(d, layer="input"):
    def some(name):
        return torch.tensor(d[name]) if d[name].size and not np.isnan(d[name]).all() else None

    mixed = "lam" in d and float(d["alpha"]) > 0
    return MixDraw(
        layer,
        torch.tensor(d["lam"]) if mixed else None,
        torch.tensor(d["perm"]) if mixed else None,
        some("beta_add"), some("beta_mult"), normal=some("normal"), uniform=some("uniform"),
    )  # fmt: skip


@pytest.mark.parametrize("name", golden_names("nfm_noise_*"))
def test_noise(name):
    d = load_golden(name)
    draw = recorded(d)
    x = torch.tensor(d["x"])
    levels = {"additive": float(d["add_noise_level"]), "multiplicative": float(d["mult_noise_level"])}
    np.testing.assert_allclose(noisy_mix(x, draw, **levels), d["out"], **EXACT)
    if draw.normal is not None and draw.uniform is not None:
        scaled = {
            "additive": levels["additive"] * draw.beta_add,
            "multiplicative": levels["multiplicative"] * draw.beta_mult,
        }
        found = feature_noise(x, **scaled, normal=draw.normal, uniform=draw.uniform)
        np.testing.assert_allclose(found, d["out"], **EXACT)


@pytest.mark.parametrize("name", golden_names("nfm_mix_*"))
def test_mixing_loss_and_gradient(name):
    d = load_golden(name)
    levels = {"additive": float(d["add_noise_level"]), "multiplicative": float(d["mult_noise_level"])}
    y, draw = torch.tensor(d["y"]), recorded(d)
    readout = nn.Linear(1, 1)
    readout.forward = lambda h: h.flatten(1) @ torch.tensor(d["readout_W"])
    seen = []
    readout.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    nfm = NoisyFeatureMixup(readout, ["input"], alpha=float(d["alpha"]), **levels)
    logits, target = nfm(torch.tensor(d["x"]).requires_grad_(), y, draw=draw)
    np.testing.assert_allclose(seen[0].detach(), d["out"], **EXACT)
    np.testing.assert_allclose(logits.detach(), d["logits"], **EXACT)
    assert torch.equal(target.y_a, torch.tensor(d["y_a"]))
    if draw.lam is not None:
        assert torch.equal(target.y_b, torch.tensor(d["y_b"]))
    loss = target.loss(logits)
    assert loss.item() == pytest.approx(float(d["loss"]), rel=1e-12)
    np.testing.assert_allclose(torch.autograd.grad(loss, logits, retain_graph=True)[0], d["grad_logits"], rtol=1e-10)
    # plain cross-entropy: the soft target is the same loss
    soft = F.cross_entropy(logits, target.soft(int(d["num_classes"])).double())
    assert soft.item() == pytest.approx(float(d["loss"]), rel=1e-6 if target.soft(10).dtype == torch.float32 else 1e-12)


class Unit(nn.Module):
    """The two residual units of the golden networks; keys and shapes come from the recorded state."""

    def __init__(self, c, out, stride, wide):
        super().__init__()
        self.wide = wide
        self.bn1, self.bn2 = nn.BatchNorm2d(c), nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(c, out, 3, 1 if wide else stride, 1, bias=wide)
        self.conv2 = nn.Conv2d(out, out, 3, stride if wide else 1, 1, bias=wide)
        self.shortcut = nn.Sequential()
        if stride != 1 or c != out:
            self.shortcut = nn.Sequential(nn.Conv2d(c, out, 1, stride, bias=wide))

    def forward(self, x):
        h = F.relu(self.bn1(x))
        skip = self.shortcut(x if self.wide else h)
        return self.conv2(F.relu(self.bn2(self.conv1(h)))) + skip


class Net(nn.Module):
    def __init__(self, widths, wide):
        super().__init__()
        first, strides = (16, (1, 2, 2)) if wide else (widths[0], (1, 2, 2, 2))
        self.conv1 = nn.Conv2d(3, first, 3, 1, 1, bias=wide)
        self.stages = len(widths)
        for i, (c, out, stride) in enumerate(zip([first, *widths], widths, strides), 1):
            self.add_module(f"layer{i}", nn.Sequential(Unit(c, out, stride, wide)))
        if wide:
            self.bn1 = nn.BatchNorm2d(widths[-1], momentum=0.9)
        self.linear = nn.Linear(widths[-1], 10)

    def forward(self, x):
        h = self.conv1(x)
        for i in range(1, self.stages + 1):
            h = getattr(self, f"layer{i}")(h)
        if hasattr(self, "bn1"):
            h = F.relu(self.bn1(h))
        return self.linear(F.adaptive_avg_pool2d(h, 1).flatten(1))


@pytest.mark.parametrize("name", [*golden_names("nfm_preresnet_*"), *golden_names("nfm_wrn_*")])
def test_networks_mixed_at_every_layer(name):
    d = load_golden(name)
    wide = "wrn" in name
    state = {k[6:]: torch.tensor(d[k]) for k in d if k.startswith("param/")}
    widths = [state[f"layer{i}.0.conv1.weight"].shape[0] for i in range(1, 4 if wide else 5)]
    model = Net(widths, wide).double()
    model.load_state_dict(state)
    k = int(d["k"])
    nfm = NoisyFeatureMixup(
        model, ["input", "layer1", "layer2", *([] if wide else ["layer3"])], float(d["alpha"]),
        float(d["add_noise_level"]), float(d["mult_noise_level"]),
    )  # fmt: skip
    x, y = torch.tensor(d["x"]), torch.tensor(d["y"])
    model.eval()
    np.testing.assert_allclose(nfm(x, y)[0].detach(), d["logits_eval_no_mix"], **EXACT)
    model.train()
    logits, target = nfm(x, y, draw=recorded(d, f"layer{k}" if k else "input"))
    np.testing.assert_allclose(logits.detach(), d["logits"], **EXACT)
    loss = target.loss(logits)
    assert loss.item() == pytest.approx(float(d["loss"]), rel=1e-12)
    loss.backward()
    for key, p in model.named_parameters():
        np.testing.assert_allclose(p.grad, d[f"grad/{key}"], rtol=1e-10, atol=1e-10, err_msg=key)


def test_salt_and_pepper_of_the_first_channel():
    d = load_golden("nfm_saltpepper")
    places = {"at_low": torch.tensor(d["salt_idx"]), "at_high": torch.tensor(d["pepper_idx"])}
    found = impulse_pixels(torch.tensor(d["images"]), float(d["amount"]), channels=[0], **places)
    np.testing.assert_allclose(found, d["out"], rtol=1e-7)  # the reference keeps this channel in float32
    drawn = impulse_pixels(torch.tensor(d["images"]), float(d["amount"]), generator=torch.Generator().manual_seed(1))
    low, high = (
        (drawn == torch.tensor(d["images"]).amin((2, 3), keepdim=True)),
        drawn == drawn.amax((2, 3), keepdim=True),
    )
    share = (low | high).double().mean().item()
    # two draws of 52 pixels of 1024, of which a few meet
    assert 0.09 < share <= 104 / 1024 + 1e-12
    assert places["at_low"].shape[1] == 52


def test_soft_targets_follow_the_images():
    # one-hot images: what the network sees is the target
    x = torch.eye(5, dtype=F64)[:, :, None]
    model = nn.Flatten()
    nfm = NoisyFeatureMixup(model, ["input"], 0.7, 0.0, 0.0, generator=torch.Generator().manual_seed(0))
    for per_sample in (False, True):
        nfm.per_sample = per_sample
        seen, target = nfm(x, torch.arange(5))
        torch.testing.assert_close(seen, target.soft(5).double(), rtol=0, atol=1e-7)
    assert isinstance(target, MixedTarget)
