"""Corruptions, their errors, calibration."""

import itertools
import json

import numpy as np
import pytest
import torch

from gyrostat.perturb.calibration import calibration
from gyrostat.perturb.corruption_errors import corruption_errors
from gyrostat.perturb.corruptions import CORRUPTIONS, corrupt
from gyrostat.perturb.curves import robustness_curve
from tests.conftest import load_golden


def images(n=3, channels=3, size=32):
    """Smooth shapes on a gradient: every corruption has something to bite on."""
    g = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    out = []
    for _ in range(n * channels):
        a, b, r = torch.rand(3, generator=g)
        disc = ((rows - a) ** 2 + (columns - b) ** 2 < (0.15 + 0.2 * r) ** 2).float()
        out.append(0.2 + 0.3 * rows * columns + 0.5 * disc)
    return torch.stack(out).view(n, channels, size, size)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_grows_and_images_stay_images(name):
    x = images()
    distance = []
    for severity in range(6):
        y = corrupt(x, name, severity)
        assert y.shape == x.shape
        assert y.dtype == x.dtype
        assert float(y.min()) >= 0
        assert float(y.max()) <= 1
        distance.append(float(((y - x) ** 2).mean()))
    assert distance[0] == 0
    assert all(a < b * 1.02 for a, b in itertools.pairwise(distance)), distance
    assert distance[5] > 1.5 * distance[1] > 0
    # neither batch nor place in it matters
    assert torch.equal(corrupt(x.flip(0), name, 3), corrupt(x, name, 3).flip(0))
    assert torch.equal(corrupt(x[1:2], name, 3), corrupt(x, name, 3)[1:2])
    small = corrupt(images(2, 1, 8)[:, 0], name, 3)
    assert small.shape == (2, 8, 8)
    as_bytes = corrupt((x * 255).round().byte(), name, 2)
    assert as_bytes.dtype == torch.uint8
    assert float((as_bytes / 255 - x).abs().mean()) < 0.3


def test_random_ones_follow_the_seed():
    x = images(1)
    assert not torch.equal(corrupt(x, "fog", 2), corrupt(x, "fog", 2, seed=1))
    noise = corrupt(torch.full((1, 1, 200, 200), 0.5), "gaussian_noise", 3) - 0.5
    assert noise.std().item() == pytest.approx(0.08, rel=0.02)
    share = (corrupt(torch.full((1, 1, 200, 200), 0.5), "impulse_noise", 5) != 0.5).float().mean().item()
    assert share == pytest.approx(0.14, rel=0.05)
    assert corrupt(x, "contrast", 3).mean().item() == pytest.approx(x.mean().item(), abs=1e-3)


def threshold(x):
    """Bright or dark in the middle."""
    middle = x.flatten(1).mean(1)
    return torch.stack([0.5 - middle, middle - 0.5], 1)


def two_kinds(n=40):
    g = torch.Generator().manual_seed(2)
    y = torch.arange(n) % 2
    x = (0.35 + 0.3 * y.view(-1, 1, 1, 1) + 0.05 * torch.randn(n, 1, 8, 8, generator=g)).clamp(0, 1)
    return x, y


def test_errors_and_mean_corruption_error():
    data = two_kinds()
    names = ["brightness", "contrast", "gaussian_noise"]
    found = corruption_errors(threshold, data, corruptions=names, severities=[1, 5], batch_size=7)
    whole = corruption_errors(threshold, data, corruptions=names, severities=[1, 5])
    assert torch.equal(found.errors, whole.errors)
    assert found.clean_error == 0
    assert found.errors[0].tolist() == [0.0, 0.5]  # brighter by 0.3: all dark ones are called bright
    assert found.errors[1].tolist() == [0.0, 0.0]
    curve = robustness_curve(threshold, data, "brightness", levels=[0, 1, 5])
    assert curve.accuracy == (1.0, 1.0, 0.5)
    bright = corruption_errors(threshold, data, corruptions=["brightness"])
    assert bright.mce(bright) == 1.0
    half = corruption_errors(lambda x: threshold(x - 0.1), data, corruptions=["brightness"])
    assert half.mce(bright) == pytest.approx(float(half.errors.sum() / bright.errors.sum()))
    assert json.dumps(found.to_dict(), allow_nan=False)
    found.plot()
    with pytest.raises(ValueError, match="no error"):
        found.mce(found)
    with pytest.raises(ValueError, match="same corruptions"):
        found.mce(bright)


@pytest.mark.parametrize(
    ("change", "word", "error"),
    [
        ({"name": "gausian_noise"}, "did you mean 'gaussian_noise'", ValueError),
        ({"severity": 6}, "severity", ValueError),
        ({"images": torch.full((1, 1, 4, 4), 2.0)}, "before you normalise", ValueError),
        ({"images": torch.full((1, 1, 4, 4), torch.nan)}, "finite", ValueError),
        ({"images": torch.zeros(4)}, "images must", TypeError),
        ({"images": torch.zeros(1, 4, 4).long()}, "bytes", TypeError),
    ],
)
def test_bad_images(change, word, error):
    with pytest.raises(error, match=word):
        corrupt(**({"images": images(1), "name": "fog", "severity": 1} | change))


def test_bad_benchmarks():
    for change, word in (
        ({"corruptions": ["fgo"]}, "did you mean 'fog'"), ({"severities": [0]}, "severities"),
        ({"severities": []}, "severities"), ({"data": (torch.zeros(0, 1, 4, 4), torch.zeros(0))}, "no samples"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            corruption_errors(**({"model": threshold, "data": two_kinds(4)} | change))
    with pytest.raises(ValueError, match="severities 0 to 5"):
        robustness_curve(threshold, two_kinds(4), "fog", levels=[0.5])
    with pytest.raises(ValueError, match="probabilities"):
        robustness_curve(threshold, two_kinds(4), "impulse_pixels", levels=[1.5])


def test_golden_calibration():
    d = load_golden("nfm_ece")
    found = calibration(torch.tensor(d["probs"]), torch.tensor(d["y"]), bins=int(d["num_bins"]))
    assert found.ece == pytest.approx(float(d["ece"]), abs=1e-7)
    # in its own bins a value of the reference may be missing: there it stores what an empty bin gives
    filled = np.array(found.counts) > 0
    np.testing.assert_allclose(np.array(found.accuracy)[filled], d["acc"][filled], atol=1e-7)
    np.testing.assert_allclose(np.array(found.confidence)[filled], d["mean_conf"][filled], atol=1e-7)
    np.testing.assert_allclose(np.array(found.counts) / len(d["y"]), d["weights"], atol=1e-7)
    found.plot()


def test_calibration_equals_torchmetrics():
    metrics = pytest.importorskip("torchmetrics")
    p = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)).mul(2).softmax(1)
    y = torch.randint(4, (300,), generator=torch.Generator().manual_seed(1))
    theirs = metrics.functional.calibration_error(p, y, task="multiclass", num_classes=4, n_bins=15)
    assert calibration(p, y, bins=15).ece == pytest.approx(float(theirs), abs=1e-6)


def test_calibration_of_the_sure_and_the_unsure():
    y = torch.tensor([0, 0, 1, 1])
    sure = torch.tensor([[1.0, 0.0]] * 4)
    assert calibration(sure, y).ece == 0.5  # a confidence of exactly 1 is in the last bin
    assert calibration(sure, y).overconfidence == 0.5
    assert calibration(torch.tensor([[0.5, 0.5]] * 4), y).ece == 0.0
    for bad, word in (
        (torch.zeros(4, 2), "sum to 1"), (torch.randn(4, 2), "sum to 1"), (torch.full((4, 2), torch.nan), "NaN"),
        (sure[:2], "one label per row"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            calibration(bad, y)
    with pytest.raises(TypeError, match="floating"):
        calibration(y, y)
