"""When a deviation decides, when it cannot, and what several curves say together."""

import json

import numpy as np
import pytest
import torch

from gyrostat import calibrate, scan, titrate
from gyrostat._errors import ArgumentError, DataError, ModelError
from gyrostat._rng import torch_stream
from gyrostat.audit.bases import data_free
from gyrostat.audit.panel import PEAK_SOFTENING, Panel, load_reference
from gyrostat.audit.peaks import Peaks
from gyrostat.audit.reference import Reference, deviation
from gyrostat.audit.report import headline, to_markdown, to_page, to_sarif
from gyrostat.audit.stages import titrate_last_stage
from gyrostat.audit.verdict import decide

SHAPE = (1, 8, 8)


def net(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 12), torch.nn.ReLU(), torch.nn.Linear(12, 4))


@pytest.mark.parametrize(
    ("D", "own", "label", "words"),
    [
        (9.2, [1, 2, 10, 3], "inconclusive", "cannot decide: 4 references, at least 19 are needed for p ≤ 0.05"),
        (9.2, [1, 2, 8, 3], "suspicious", "p = 0.2, the least that can be had of 4 references, at least 19"),
        (9.2, [1.0] * 19, "suspicious", "p = 0.05 with 19 references"),
        (9.2, [1.0] * 19 + [10.0], "inconclusive", "p = 0.095 with 20 references is above 0.05"),
        (9.2, [1.0] * 38 + [10.0], "suspicious", "p = 0.05 with 39 references"),
        (9.2, [], "inconclusive", "no p-value"),
        (3.9, [1, 2, 3], "inconclusive", "between 2.5 and 4"),
        (2.4, [1, 2, 3], "no finding", "within what clean models"),
    ],
)
def test_the_rule(D, own, label, words):
    z = np.array([[0.0, D, 1.0], [0.0, 0.0, -1.0]])
    verdict = decide(z, own, limit=4.0, references=len(own) or 2)
    assert verdict.label == label
    assert words in verdict.reason
    assert verdict.target == 1
    assert any("at least 19" in w for w in verdict.warnings) == (len(own) < 19)


def test_every_form_of_the_report_and_the_exit_code_follow_the_rule():
    reference = calibrate(net, 4, input_shape=SHAPE, n=32)
    below = reference.ask(net(7)).features() - 1.2
    steps = 1e-3 * np.arange(4)[:, None, None]
    assert scan(net(7), reference=Reference(below + steps, reference.settings)).exit_code() == 1
    moved = below + steps
    moved[3] += 0.3  # one reference deviates from the rest by more than the model does from all of them
    report = scan(net(7), reference=Reference(moved, reference.settings))
    verdict = report.verdict
    assert verdict.D > 4
    assert verdict.p_value == 0.4
    assert verdict.label == "inconclusive"
    assert (report.exit_code(), report.exit_code(strict=True)) == (0, 1)
    said = "Inconclusive: cannot decide: 4 references, at least 19 are needed for p ≤ 0.05"
    assert headline(report).startswith(said)
    assert said in to_markdown(report)
    log = to_sarif(report, "m")["runs"][0]["results"][0]
    assert (log["ruleId"], log["level"]) == ("GYR002", "warning")
    assert said in log["message"]["text"]
    assert log["properties"]["references"] == 4
    assert log["properties"]["pValue"] == verdict.p_value
    assert "cannot decide: 4 references" in to_page(report, {}).render()
    kept = json.loads(json.dumps(report.to_dict()))["verdict"]
    assert (kept["references"], kept["label"], kept["limit"]) == (4, "inconclusive", 4.0)
    assert "cannot decide" in kept["reason"]


def test_peaks_are_the_quantile_of_the_margins_whatever_the_batches():
    scores = torch.randn(700, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clean, noisy = scores[:100], scores[100:]
    margins = np.stack([noisy[:, c] - noisy[:, [k for k in range(5) if k != c]].max(1).values for c in range(5)])
    expected = np.quantile(margins, 0.99, axis=1) / (scores - scores.mean(1, keepdim=True)).std(unbiased=False).item()
    for size in (1, 7, 600):
        peaks = Peaks(600)
        peaks.add(clean, noisy=False)
        for part in noisy.split(size):
            peaks.add(part, noisy=True)
        np.testing.assert_allclose(peaks.values(), expected, rtol=1e-12)


def test_peaks_do_not_depend_on_the_scale_of_the_scores():
    one = titrate(net(0), input_shape=SHAPE, n=30)
    many = titrate(lambda x: 7 * net(0)(x) + 3, input_shape=SHAPE, n=30, batch_size=4)
    np.testing.assert_allclose(one.peaks, many.peaks, rtol=1e-5)  # float32 scores
    labels = titrate(lambda x: net(0)(x).argmax(1), input_shape=SHAPE, n=30)
    assert labels.peaks is None


def test_combined_references_average_shares_and_peaks_and_survive_the_disk(tmp_path):
    panel = calibrate(net, 4, method="combined", input_shape=SHAPE, n=48)
    panel.save(tmp_path / "p.json")
    back = load_reference(tmp_path / "p.json")
    assert isinstance(back, Panel)
    curves = back.ask(net(9))
    verdict = back.score(curves)
    by_hand = []
    for reference, curve in zip(panel.references, curves, strict=True):
        by_hand.append(deviation(curve.features(), reference.features, reference.softening).max(0))
        mean, spread = reference.peaks.mean(0), reference.peaks.std(0, ddof=1)
        by_hand.append((curve.peaks - mean) / (spread + PEAK_SOFTENING))
    np.testing.assert_allclose(verdict.z, by_hand, rtol=1e-12)
    assert pytest.approx(np.mean(by_hand, 0).max()) == verdict.D
    assert verdict.target == int(np.mean(by_hand, 0).argmax())
    assert verdict.limit == 3.5
    many = calibrate(net, 10, method="combined", input_shape=SHAPE, n=16)
    assert many.score(many.ask(net(11))).limit == 2.5
    report = scan(net(9), reference=tmp_path / "p.json")
    assert pytest.approx(verdict.D) == report.verdict.D
    assert len(report.other_curves) == 1
    json.dumps(report.to_dict(), allow_nan=False)
    with pytest.raises(ArgumentError, match="scores 2 curves"):
        back.score(curves[:1])
    with pytest.raises(ArgumentError, match="noise"):
        back.score(curves[::-1])
    with pytest.raises(ArgumentError, match="labels only"):
        scan(lambda x: net(9)(x).argmax(1), reference=back)
    with pytest.raises(ArgumentError, match="labels only"):
        calibrate([lambda x: net(9)(x).argmax(1)] * 3, method="combined", input_shape=SHAPE, n=32)
    for text in ('{"format": "gyrostat-panel-1"}', '{"format": "gyrostat-panel-1", "references": [{}]}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match="not a reference"):
            load_reference(tmp_path / "bad.json")


def test_one_step_of_many_counts():
    def steps(x):
        return torch.stack([-net(0)(x), net(0)(x)], 1)  # (N, 2, 4)

    last = titrate(steps, input_shape=SHAPE, n=16, step=-1)
    np.testing.assert_array_equal(last.counts, titrate(net(0), input_shape=SHAPE, n=16).counts)
    report = scan(steps, input_shape=SHAPE, n=16)
    assert report.exit_code() == 2
    assert "step=-1" in report.failed
    with pytest.raises(ModelError, match="step=2"):
        titrate(steps, input_shape=SHAPE, n=16, step=2)
    reference = calibrate([steps] * 3, input_shape=SHAPE, n=16, step=-1)
    assert reference.score(reference.ask(steps)).label == "no finding"


def test_noise_inside_is_what_the_formula_says():
    model, n = net(0), 40
    curve = titrate_last_stage(model, input_shape=SHAPE, n=n, seed=3)
    a = model[:3](data_free("procedural", n, SHAPE, 3)).detach()
    eta = torch.randn(n, 12, generator=torch_stream(3, "eta", "last stage"))
    for s, sigma in enumerate(curve.sigmas):
        found = model[3]((a + sigma * a.std(0) * eta).clamp_min(0)).argmax(1)
        np.testing.assert_array_equal(curve.counts[s], np.bincount(found, minlength=4))
    assert not model[3]._forward_hooks
    panel = calibrate(net, 3, method="inside", input_shape=SHAPE, n=32)
    verdict = panel.score(panel.ask(net(5)))
    assert verdict.z.shape == (5, 4)
    with pytest.raises(ArgumentError, match=r"nn\.Module"):
        panel.ask(lambda x: net(5)(x))
    relu = torch.nn.Sequential(net(0), torch.nn.ReLU())
    with pytest.raises(ModelError, match=r"last nn\.Linear"):
        titrate_last_stage(relu, input_shape=SHAPE)
