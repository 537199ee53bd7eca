"""``gyrostat analyse``: a page for every kind of model; bad input gets one sentence and exit code 2."""

import json

import pytest

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
