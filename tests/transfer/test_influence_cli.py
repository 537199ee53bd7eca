"""``gyrostat influence``: the page, the numbers, bad lines; the head at its optimum."""

import json

import pytest
import torch

from gyrostat.cli.app import run
from gyrostat.train.state import save_state
from gyrostat.transfer.head import fit_head
from gyrostat.transfer.network import ConvNet


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = {"convnet": {"inputs": 1, "outputs": 5, "width": 16}}
    (tmp_path / "run").mkdir()
    save_state(tmp_path / "run" / "model.safetensors", ConvNet(1, 5, 16).state_dict(), facts)
    return tmp_path


def test_wrong_labels_are_found_even_with_random_features(here, capsys):
    line = "influence run digits --labels 100 --wrong 0.1 --l2 1e-4 --tests 50 --show 2 --out i.html"
    assert run(line.split()) == 0
    assert "wrong labels are in the first tenth" in capsys.readouterr().out
    found = json.loads((here / "i.numbers.json").read_text())
    assert found["influence"]["gradient_norm"] < 1e-4
    assert found["influence"]["message"] == "solved, at a minimum of the objective"
    assert len(found["wrong"]) == 10
    assert found["wrong_found"] >= 0.5  # measured 0.8; by chance a tenth of them
    assert "Labels that look wrong" in (here / "i.html").read_text()
    assert run(line.split()) == 2
    assert "--force" in capsys.readouterr().err
    assert run([*line.split(), "--force", "--solver", "cg", "--json", "--quiet"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["wrong"] == found["wrong"]
    assert again["influence"]["iterations"] > 0
    assert again["suspects"][:3] == found["suspects"][:3]


@pytest.mark.parametrize(
    "line",
    [
        "influence nowhere digits",
        "influence run nowhere",
        "influence run digits --labels 99999",
        "influence run digits --wrong 0.9",
        "influence run digits --l2 0",
        "influence run digits --out page.txt",
        "influence run digits --out run",
        "influence run digits --solver svd",
    ],
)
def test_wrong_lines(line, here, capsys):
    before = sorted(here.rglob("*"))
    assert run([*line.split(), "--quiet"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert sorted(here.rglob("*")) == before


def test_the_fitted_head_is_at_its_minimum():
    g = torch.Generator().manual_seed(0)
    a, y = torch.randn(40, 6, generator=g), torch.arange(40) % 4
    head = fit_head(a, y, 4, l2=1e-2)
    weight, bias = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(a.double() @ weight.T + bias, y)
    loss = loss + 0.5e-2 * (weight.square().sum() + bias.square().sum())
    gradients = torch.autograd.grad(loss, [weight, bias])
    assert max(float(g.abs().max()) for g in gradients) < 1e-7
