"""``gyrostat transfer`` and ``gyrostat train --adversarial``: results, resume, bad lines."""

import json

import pytest
import torch

from gyrostat._errors import CheckpointError
from gyrostat.cli.app import run
from gyrostat.data.catalogue import open_images
from gyrostat.train.sources import fitted, load_source
from gyrostat.train.transfer import Study, run_study
from gyrostat.transfer.adversarial import AdversarialTraining

SMALL = "transfer letters:n=104 digits --size 8 --labels 10,20 --epochs 2 --subsets 2 --tune-epochs 3 --width 2 --out s"
SMALL += " --test-limit 100 --robust-limit 20 --device cpu"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(line):
    return run(line.split())


def test_a_study_and_its_sources_again(here, capsys):
    assert call(SMALL + " --quiet") == 0
    assert "page: s/report.html" in capsys.readouterr().out
    whole = json.loads((here / "s" / "report.json").read_text())
    assert set(whole["curve"]["accuracy"]) == {"natural", "adversarial"}
    assert [r["source"] for r in whole["sources"]] == ["natural", "adversarial"]
    assert (here / "s" / "report.html").read_text().count("<figure>") >= 7
    assert call(SMALL) == 2
    assert "--force" in capsys.readouterr().err
    model, facts = load_source(here / "s" / "source-adversarial-0")
    assert facts["strategy"]["name"] == "adversarial"
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 26)
    (here / "letters").mkdir()  # a folder called like a data set is not in the way
    assert call("transfer letters digits --labels 5000") == 2
    assert "training images" in capsys.readouterr().err
    assert call("transfer s/source-natural-0,nowhere digits") == 2
    assert "nowhere: is no run" in capsys.readouterr().err
    # trained runs are sources, and the same fine-tunings give the same accuracies
    runs = "s/source-natural-0,s/source-adversarial-0"
    line = SMALL.replace("letters:n=104", runs).replace("--out s", "--out u") + " --quiet --json"
    capsys.readouterr()
    assert call(line) == 0
    second = json.loads(capsys.readouterr().out)
    assert [second["mean"][f"source-{name}-0"] for name in ("natural", "adversarial")] == list(whole["mean"].values())


def test_an_interrupted_study_ends_as_an_uninterrupted_one(here):
    digits = fitted(open_images("digits"), 8)
    study = Study((10, 20), epochs=2, subsets=2, width=2, test_limit=100, robust_limit=20, fine_tuning=(("epochs", 3),))
    letters = fitted(open_images("letters:n=104"), 8)
    whole = run_study(letters, digits, study, here / "whole", device="cpu")
    for stop in ("adversarial source 1/1, epoch 1", "natural source, 20 labels, subset 1", "adversarial source, 20"):

        def interrupt(words, stop=stop):
            if words.startswith(stop):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_study(letters, digits, study, here / "cut", tell=interrupt, device="cpu")
    told = []
    again = run_study(letters, digits, study, here / "cut", tell=told.append, device="cpu")
    assert again.curve == whole.curve
    assert again.sources == whole.sources
    assert not any("epoch" in words for words in told)
    with pytest.raises(CheckpointError, match="other settings"):
        run_study(letters, digits, Study((10,)), here / "cut", device="cpu")


def test_networks_of_continuous_depth_are_sources(here):
    assert call("train-depth digits:layout=8x8 --epochs 1 --channels 2 --segments 1 --out d --quiet --device cpu") == 0
    study = Study((10,), subsets=1, test_limit=50, fine_tuning=(("epochs", 1), ("last_blocks", 1)))
    found = run_study({"d": here / "d"}, open_images("digits"), study, here / "out", device="cpu")
    assert 0 <= found.curve.mean("d")[0] <= 1
    assert call("train digits --model rnn --hidden-size 4 --epochs 1 --out r --quiet --device cpu") == 0
    with pytest.raises(CheckpointError, match="no image classifier"):
        load_source(here / "r")


def test_training_says_how_robust_it_is(here, capsys):
    line = "train digits --model rnn --hidden-size 8 --epochs 1 --adversarial l2:0.5:2 --out r --quiet --device cpu"
    assert call(line) == 0
    assert "robust 0." in capsys.readouterr().out
    result = json.loads((here / "r" / "result.json").read_text())
    assert result["strategy"] == {
        "name": "adversarial", "norm": "l2", "eps": 0.5, "steps": 2, "step_size": None, "random_start": False,
        "clean_weight": 0.0, "low": 0.0, "high": 1.0,
    }  # fmt: skip
    assert 0 <= result["robust_score"] <= result["test_score"]
    assert result["robust_samples"] == 360
    assert (
        call("train adding:n=60,length=10 --model rnn --epochs 1 --adversarial linf:0.1 --out a --quiet --device cpu")
        == 0
    )
    result = json.loads((here / "a" / "result.json").read_text())
    assert result["robust_score"] >= result["test_score"]


WRONG = [
    "transfer letters",
    "transfer letters nowhere",
    "transfer nowhere digits",
    "transfer letters digits --labels many",
    "transfer letters digits --labels 0,10",
    "transfer letters digits --labels 5000",
    "transfer letters digits --adversarial l2",
    "transfer letters digits --adversarial l3:0.5:3",
    "transfer letters digits --size 2",
    "transfer letters digits --last-blocks 9",
    "transfer letters digits --trainable block.2",
    "transfer letters digits --trainable blocks.2 --last-blocks 1",
    "transfer letters digits --head-init ones",
    "transfer letters digits --batch-norm thaw",
    "transfer letters digits --subsets 0",
    "transfer letters digits --tune-lr -1",
    "transfer letters:n=3 digits",
    "transfer adding digits",
    "transfer letters adding",
    "train digits --adversarial l2:x:3",
    "train digits --adversarial l2:0.5:3 --strategy adversarial:eps=1",
    "train digits --strategy adversarial:low=0",
    "train digits --strategy mixup:layers=layer.9",
    "train-depth digits --channels 2 --segments 1 --strategy mixup:layers=layer.9",
    "transfer letters:n=104 digits --size 8 --device nowhere",
]


@pytest.mark.parametrize("line", WRONG)
def test_wrong_lines(line, here, capsys):
    assert call(line) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("gyrostat: error: ")
    assert list(here.iterdir()) == []


def test_a_refused_strategy_does_not_cost_a_finished_run(here, capsys):
    line = "train digits --model rnn --hidden-size 2 --epochs 1 --max-steps 1 --out r --quiet --device cpu"
    assert call(line) == 0
    assert call(line + " --force --strategy mixup:layers=nope") == 2
    assert "'nope' is no submodule" in capsys.readouterr().err
    assert (here / "r" / "result.json").is_file()


def test_images_are_made_to_fit():
    digits = open_images("digits")
    big = fitted(digits, 16, 3)
    assert big.pixels.shape == (1797, 3, 16, 16)
    assert fitted(big, 16, 1).pixels.shape[1] == 1
    assert fitted(digits) is digits
    assert float(big.pixels.min()) >= 0
    assert AdversarialTraining.parse("linf:0.1").steps == 3
