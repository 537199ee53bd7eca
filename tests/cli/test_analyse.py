"""``gyrostat analyse``: a page for every kind of model; bad input gets one sentence and exit code 2."""

import json

import numpy as np
import pytest
import torch

from gyrostat.cli.app import run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for model, size in (("lipschitz", 2), ("lem", 6), ("lstm", 4)):
        line = ["train", "digits", "--model", model, "--hidden-size", str(size), "--max-steps", "2", "--epochs", "1"]
        assert run([*line, "--out", str(folder / model), "--quiet", "--device", "cpu"]) == 0
    return folder


@pytest.mark.parametrize("model", ["lipschitz", "lem", "lstm"])
def test_a_page_and_its_numbers(runs, model, tmp_path, capsys):
    page = tmp_path / "page.html"
    line = ["analyse", str(runs / model), "--out", str(page), "--sequences", "30", "--repeats", "2", "--quiet"]
    assert run([*line, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    text = page.read_text()
    assert json.loads(page.with_suffix(".numbers.json").read_text())["curves"] == result["curves"]
    assert len(result["curves"]) == 5
    assert ("certificates" in result) == (model == "lipschitz")
    assert ("lem_bounds" in result) == (model == "lem")
    assert ("exponents" in result) == (model != "lstm")
    assert ("two hidden units" in text) == (model == "lipschitz")
    assert "estimate" in text
    assert run(line) == 2
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    "model", ["vector_field", pytest.param("lem", marks=pytest.mark.slow), pytest.param("gru", marks=pytest.mark.slow)]
)
def test_ragged_data_are_read_whole(model, tmp_path, capsys):
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 12, 60)
    x = rng.normal(size=(60, 11, 2)).astype("float32")
    x[np.arange(11) >= lengths[:, None]] = 0
    np.savez(tmp_path / "ragged.npz", X=x, y=np.arange(60) % 3, lengths=lengths)
    data, folder, page = str(tmp_path / "ragged.npz"), str(tmp_path / "run"), tmp_path / "page.html"
    line = ["train", data, "--model", model, "--hidden-size", "2", "--max-steps", "2", "--out", folder, "--quiet"]
    assert run([*line, "--device", "cpu"]) == 0
    capsys.readouterr()
    line = ["analyse", folder, "--out", str(page), "--repeats", "2", "--quiet", "--json"]
    assert run(line) == 0
    result = json.loads(capsys.readouterr().out)
    from gyrostat.data.catalogue import open_data
    from gyrostat.train.loop import load_model
    from gyrostat.train.task import Task

    opened = open_data(data)
    # every test sequence counts, whatever its length, and the loss is that of the padded batch
    rows = opened.split["test"]
    assert {c["n_samples"] for c in result["curves"]} == {len(rows)}
    trained, _ = load_model(tmp_path / "run")
    rows = opened.split["train"]
    x, y, n = (torch.from_numpy(v[rows]) for v in (opened.x, opened.y, opened.lengths.astype("int64")))
    with torch.no_grad():
        want = Task("classify").loss(trained.eval()(x, n), y, n)
    assert result["hessian"]["loss"] == pytest.approx(float(want), rel=1e-5)
    text = page.read_text()
    assert ("two hidden units" in text) == (model != "gru")
    assert ("z starts at zero" in text) == (model == "lem")
    assert ("keeps lengths" in text or "matrix is bounded" in text) == (model == "vector_field")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (["analyse", "{nothing}"], "no finished run"),
        (["analyse", "{run}", "--data", "digits:layout=64x1", "--out", "{out}"], "--data"),
        (["analyse", "{run}", "--data", "digitz", "--out", "{out}"], "digitz"),
        (["analyse", "{run}", "--out", "{nothing}"], "--out"),
        (["analyse", "{run}", "--sequences", "1", "--out", "{out}"], "sequences"),
    ],
)
def test_bad_input_is_one_sentence(runs, change, word, tmp_path, capsys):
    names = {"run": str(runs / "lem"), "out": str(tmp_path / "p.html"), "nothing": str(tmp_path)}
    assert run([part.format(**names) for part in change]) == 2
    error = capsys.readouterr().err
    assert word in error
    assert "Traceback" not in error
    assert not (tmp_path / "p.html").exists()
