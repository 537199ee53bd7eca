"""Titration against the golden counts, the closed form, and its own invariants."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from gyrostat._errors import ArgumentError, DataError, ModelError, NonFiniteError, ShapeError
from gyrostat.audit.bases import BASES, data_free
from gyrostat.audit.calibration import calibrate
from gyrostat.audit.reference import Reference
from gyrostat.audit.scan import scan
from gyrostat.audit.titration import KINDS, TitrationCurve, titrate
from gyrostat.audit.verdict import uncalibrated

from ..conftest import load_golden

SHAPE = (1, 4, 4)


def small_net(seed: int = 0, classes: int = 4) -> torch.nn.Module:
    torch.manual_seed(seed)
    first, last = torch.nn.Linear(16, 12), torch.nn.Linear(12, classes)
    with torch.no_grad():  # centred on mid-grey and steep, so that every class is given by some input
        first.weight.mul_(6)
        first.bias.copy_(-0.5 * first.weight.sum(1))
        last.weight.mul_(3)
    return torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.ReLU(), torch.nn.Dropout(0.5), last)


@pytest.mark.parametrize("name", ["titration_relu_clip", "titration_relu_noclip"])
def test_golden_counts(name):
    z = load_golden(name)

    def net(x):
        hidden = np.maximum(x.double().flatten(1).numpy() @ z["W1"] + z["b1"], 0)
        return hidden @ z["W2"] + z["b2"]

    # the base goes through float32, which moves none of these sixty images across a boundary
    curve = titrate(
        net, z["base"], sigmas=z["sigmas"], gammas=z["gammas"], noise=torch.from_numpy(z["noise"]),
        clip=(0.0, 1.0) if bool(z["clip"]) else None, outputs="logits", batch_size=17,
    )  # fmt: skip
    np.testing.assert_array_equal(curve.counts, z["class_hist"] * (60 if z["class_hist"].max() <= 1 else 1))
    np.testing.assert_allclose(curve.flip_rate, z["flip_rate"], rtol=1e-14)
    np.testing.assert_allclose(curve.T("gated"), z["T_all"], rtol=1e-14)
    np.testing.assert_allclose(curve.T("conditional"), z["T_flipped"], rtol=1e-14)
    np.testing.assert_allclose(curve.T("raw"), z["T_raw"], rtol=1e-14)
    np.testing.assert_allclose(curve.confident / curve.n, z["T_class"], rtol=1e-14)
    assert [curve.modal_class(s) for s in z["sigmas"]] == z["modal_class"].tolist()


def test_linear_model_has_the_closed_form():
    z = load_golden("titration_linear")

    def net(x):
        margin = x.double().flatten(1).numpy() @ z["w"] + float(z["b"])
        return np.stack([np.zeros_like(margin), margin], 1)

    base = np.repeat(z["x0"], 400, 0)
    curve = titrate(
        net,
        base,
        sigmas=z["sigmas"],
        gammas=z["gammas"],
        noise=torch.from_numpy(z["noise"]),
        clip=None,
        outputs="logits",
    )
    np.testing.assert_allclose(curve.T("gated"), z["mc400_T_all"], atol=1e-6)
    own = titrate(net, np.repeat(z["x0"], 4000, 0), sigmas=z["sigmas"], gammas=z["gammas"], clip=None, outputs="logits")
    with np.errstate(divide="ignore"):
        cut = np.maximum(np.log(z["gammas"] / (1 - z["gammas"])), 0) - float(z["margin"])
        exact = 1 - norm.cdf(cut[None] / (z["sigmas"][:, None] * np.linalg.norm(z["w"])))
    np.testing.assert_allclose(exact[1:], z["T_exact"][1:], atol=1e-12)
    # four standard errors of a share of 4,000
    assert (np.abs(own.T("gated") - z["T_exact"]) <= 4 * np.sqrt(z["T_exact"] * (1 - z["T_exact"]) / 4000) + 1e-3).all()


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 99),
    classes=st.integers(2, 6),
    n=st.integers(1, 70),
    batch=st.integers(1, 80),
    reps=st.integers(1, 2),
)
def test_invariants(seed, classes, n, batch, reps):
    net = small_net(seed, classes)
    curve = titrate(net, input_shape=SHAPE, n=n, batch_size=batch, reps=reps, seed=seed)
    again = titrate(net, input_shape=SHAPE, n=n, batch_size=256, reps=reps, seed=seed)
    np.testing.assert_array_equal(curve.both, again.both)
    np.testing.assert_array_equal(curve.confident, again.confident)
    assert curve.n == n * reps
    assert (curve.T("gated")[0] == 0).all()
    assert (curve.T("gated") <= curve.flip_rate[:, None]).all()
    assert (curve.T("gated") <= curve.T("raw")).all()
    for kind in KINDS[:3]:
        assert (np.diff(curve.T(kind), axis=1) <= 0).all(), kind
    np.testing.assert_array_equal(curve.confident.sum(-1) / curve.n, curve.T("raw"))
    np.testing.assert_array_equal(curve.counts.sum(-1), curve.n)
    back = TitrationCurve.from_dict(curve.to_dict())
    np.testing.assert_array_equal(back.both, curve.both)
    assert back.settings == curve.settings
    assert back.target == curve.target


def test_the_model_and_the_random_stream_are_left_as_they_were():
    net = small_net()
    net[3].eval()
    flags, before = [m.training for m in net.modules()], torch.get_rng_state()
    titrate(net, input_shape=SHAPE, n=8)
    assert [m.training for m in net.modules()] == flags
    assert torch.equal(torch.get_rng_state(), before)

    def draws(x):
        return torch.rand(len(x), 3)

    titrate(draws, input_shape=SHAPE, n=8)
    assert torch.equal(torch.get_rng_state(), before)


def test_probabilities_labels_and_double_precision_agree_with_logits():
    net = small_net().eval()
    asked = {"input_shape": SHAPE, "n": 40}
    plain = titrate(net, **asked)
    probs = titrate(lambda x: net(x).softmax(1), **asked)
    assert (plain.settings["outputs"], probs.settings["outputs"]) == ("logits", "probs")
    np.testing.assert_array_equal(plain.counts, probs.counts)
    np.testing.assert_array_equal(plain.both, probs.both)
    labels = titrate(lambda x: net(x).argmax(1).numpy(), **asked)
    assert (plain.counts.sum(0) > 0).all()
    np.testing.assert_array_equal(labels.counts, plain.counts)
    np.testing.assert_array_equal(labels.T("gated"), labels.T("flip"))
    double = small_net().double()
    curve = titrate(double, **asked)
    assert next(double.parameters()).dtype == torch.float64
    np.testing.assert_array_equal(curve.counts, plain.counts)


def test_temperature_only_moves_confidence():
    net = small_net()
    cold, hot = (titrate(net, input_shape=SHAPE, n=40, temperature=t) for t in (0.1, 10.0))
    np.testing.assert_array_equal(cold.counts, hot.counts)
    assert cold.score("raw") > hot.score("raw")


def test_inputs_that_are_not_images_take_noise_in_units_of_their_spread():
    torch.manual_seed(0)
    x = torch.randn(50, 3, 5) * torch.tensor([1.0, 10, 100, 1000, 1e-3]) + 7
    seen = []

    def net(batch):
        seen.append(batch)
        return batch.sum(1)[:, :3]

    titrate(net, x, sigmas=(0, 1), clip=None, units="std")
    spread = (seen[2] - seen[1]).flatten(0, 1).std(0) / x.flatten(0, 1).std(0)
    # the deviation of 150 normal draws is within a quarter of one
    assert ((spread > 0.75) & (spread < 1.25)).all()


@pytest.mark.parametrize("kind", BASES)
def test_bases(kind):
    x = data_free(kind, 9, (3, 8, 6), 5)
    assert x.shape == (9, 3, 8, 6)
    assert x.dtype == torch.float32
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    assert torch.equal(x, data_free(kind, 9, (3, 8, 6), 5))


def test_paper_settings_are_recorded():
    curve = titrate(small_net(), input_shape=SHAPE, paper=True)
    s = curve.settings
    assert (s["base"], s["n"], s["clip"], s["gammas"]) == ("gauss_minmax", 400, None, [0.95])
    assert s["sigmas"] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5]


def test_a_folder_of_images(tmp_path):
    from PIL import Image

    for i in range(3):
        Image.fromarray(np.full((8, 8, 3), 40 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    curve = titrate(small_net(), tmp_path, input_shape=SHAPE)
    assert curve.n == 3
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"broken\.png: not a readable image"):
        titrate(small_net(), tmp_path, input_shape=SHAPE)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, ArgumentError, "input_shape"),
        ({"base_images": np.full((4, *SHAPE), 200.0)}, ArgumentError, "outside clip"),
        ({"base_images": np.full((4, *SHAPE), np.nan)}, NonFiniteError, "image 0"),
        ({"base_images": np.zeros((0, *SHAPE))}, DataError, "N >= 1"),
        ({"base_images": []}, DataError, "empty"),
        ({"base_images": np.zeros((4, *SHAPE)), "input_shape": (1, 5, 5)}, DataError, "the model takes"),
        ({"input_shape": SHAPE, "sigmas": (0.2, 0.1)}, ArgumentError, "increasing"),
        ({"input_shape": SHAPE, "gammas": (0.5, 1.0)}, ArgumentError, "gammas"),
        ({"input_shape": SHAPE, "clip": (1, 0)}, ArgumentError, "clip"),
        ({"input_shape": SHAPE, "base": "unifrom"}, ArgumentError, "did you mean 'uniform'"),
        ({"input_shape": SHAPE, "n": 4, "labels": [0, 1]}, ShapeError, "labels"),
        ({"input_shape": SHAPE, "n": 4, "noise": torch.zeros(3, *SHAPE)}, ShapeError, "noise"),
        ({"input_shape": SHAPE, "temperature": 0.0}, ArgumentError, "temperature"),
    ],
)
def test_bad_arguments(options, error, words):
    with pytest.raises(error, match=words):
        titrate(small_net(), **options)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (lambda x: torch.full((len(x), 3), float("nan")), NonFiniteError, "NaN"),
        (lambda x: torch.zeros(len(x), 1), ModelError, "K >= 2"),
        (lambda x: torch.full((len(x),), 0.5), ModelError, "whole number"),
        (lambda x: torch.zeros(len(x) + 1, 3), ModelError, "inputs gave"),
        (lambda x: torch.zeros(len(x), 5, 3), ModelError, "step=-1"),
        (lambda x: {"out": torch.zeros(len(x), 3)}, ModelError, "'out'.*scores alone"),
    ],
)
def test_bad_answers(answer, error, words):
    with pytest.raises(error, match=words):
        titrate(answer, input_shape=SHAPE, n=4)


def test_named_and_several_answers():
    net = small_net().eval()
    plain = titrate(net, input_shape=SHAPE, n=16)
    for answer in (lambda x: {"logits": net(x), "loss": None}, lambda x: (net(x), None)):
        np.testing.assert_array_equal(titrate(answer, input_shape=SHAPE, n=16).confident, plain.confident)


def test_references_refuse_other_settings_and_survive_the_disk(tmp_path):
    reference = calibrate(small_net, 4, input_shape=SHAPE, n=64)
    reference.save(tmp_path / "r.json")
    back = Reference.load(tmp_path / "r.json")
    curve = titrate(small_net(9), input_shape=SHAPE, n=64)
    verdict = back.score(curve)
    assert verdict.to_dict() == reference.score(curve).to_dict()
    assert verdict.p_value >= 1 / 5
    for other in ({"n": 63}, {"seed": 1}, {"clip": None}, {"base": "gray"}):
        with pytest.raises(ArgumentError, match=next(iter(other))):
            back.score(titrate(small_net(9), **{"input_shape": SHAPE, "n": 64, **other}))
    for text in (
        "{}",
        "[1]",
        "no",
        '{"format": "gyrostat-reference-1", "features": [[1]], "settings": {}, "version": "0"}',
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match="not a reference"):
            Reference.load(tmp_path / "bad.json")
    with pytest.raises(ArgumentError, match="at least 3"):
        calibrate([small_net(0), small_net(1)], input_shape=SHAPE, n=8)


def test_without_references_nothing_is_called_clean():
    verdict = uncalibrated(titrate(small_net(), input_shape=SHAPE, n=16))
    assert verdict.label == "uncalibrated"
    assert verdict.D is None
    assert verdict.p_value is None


def test_references_of_another_architecture_are_doubted():
    def net(width):
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(16, width), torch.nn.ReLU(), torch.nn.Linear(width, 4)
        )

    for method in ("structured", "combined"):
        reference = calibrate(lambda seed: net(20), 4, method=method, input_shape=SHAPE, n=32)
        alike, other, unknown = (scan(m, reference=reference) for m in (net(22), net(200), lambda x: net(9).eval()(x)))
        assert not alike.warnings
        assert not unknown.warnings
        assert "another architecture" in " ".join(other.warnings)
