"""Training that grows in depth: schedules, levels that load, exact resume, the verbs around it."""

import gzip
import json

import numpy as np
import pytest
import torch

from gyrostat._errors import ArgumentError, CheckpointError, DataError
from gyrostat.cli.app import run
from gyrostat.data.catalogue import open_data
from gyrostat.data.sequences import SequenceData
from gyrostat.data.tags import ud_english_ewt
from gyrostat.depth.change import blocks
from gyrostat.train.config import TrainConfig
from gyrostat.train.levels import Levels, NetConfig, load_levels, train_levels

NET = NetConfig("image", outputs=3, inputs=1, channels=2, segments=1, solver="midpoint")


def levels(refine_at=(), project_at=(), carry_optimizer=False, **changes):
    sgd = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "clip": None, "keep": "last"}
    return Levels(TrainConfig(**{**sgd, **changes}), refine_at, project_at, carry_optimizer=carry_optimizer)


def call(line):
    return run(line.split())


def toy(n=60):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    x = rng.normal(0, 0.3, (n, 6, 6)).astype("float32")
    x[np.arange(n), y] += 2.0  # the bright row is the class
    return SequenceData("toy", x, y, "classify")


def test_levels_follow_their_epochs_and_every_one_loads(tmp_path):
    config = levels(epochs=4, lr=0.1, refine_at=(2, 3), project_at=(4,), decay_at=(3,))
    done = train_levels(toy(), NET, config, tmp_path)
    model, result = done.model, done.result
    assert [row["K"] for row in result["history"]] == [1, 2, 4, 2]
    assert [config.config.lr_at(e) for e in (0, 1, 2, 3)] == pytest.approx([0.1, 0.1, 0.01, 0.01])
    block = blocks(model)["blocks.0"]
    assert (block.basis.K, block.n_steps) == (2, 2)
    for name, k in (("level-1-k1", 1), ("level-2-k2", 2), ("level-3-k4", 4), ("model", 2)):
        loaded, facts = load_levels(tmp_path / f"{name}.safetensors")
        assert [b.basis.K for b in blocks(loaded).values()] == [k]
        assert facts["net"]["channels"] == 2
    again = load_levels(tmp_path)[0]
    x = torch.randn(3, 1, 6, 6)
    assert torch.equal(again(x), model(x))
    assert json.loads((tmp_path / "result.json").read_text())["test_score"] == result["test_score"]


def test_it_learns(tmp_path):
    done = train_levels(toy(150), NET, levels(epochs=6, lr=0.1, refine_at=(3,), batch_size=16), tmp_path)
    assert done.result["test_score"] > 0.8


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_interrupted_run_ends_as_an_uninterrupted_one_bit_for_bit(tmp_path, carry, optimizer):
    config = levels(
        epochs=4, lr=0.02, refine_at=(3,), optimizer=optimizer, momentum=0.9 if optimizer == "sgd" else 0.0,
        carry_optimizer=carry,
    )  # fmt: skip
    whole = train_levels(toy(), NET, config, tmp_path / "whole").model
    for stop in (1, 3):

        def interrupt(row, stop=stop):
            if row["epoch"] == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_levels(toy(), NET, config, tmp_path / "cut", on_epoch=interrupt)
    resumed = train_levels(toy(), NET, config, tmp_path / "cut").model
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()):
        assert torch.equal(a, b)
    with pytest.raises(CheckpointError, match="other settings"):
        train_levels(toy(), NET, levels(epochs=5), tmp_path / "cut")


def test_bad_settings_are_one_sentence(tmp_path):
    with pytest.raises(ArgumentError, match="in refine_at and in project_at"):
        levels(refine_at=(2,), project_at=(2,))
    with pytest.raises(ArgumentError, match="epochs"):
        levels(epochs=0)
    with pytest.raises(ArgumentError, match="cannot be halved"):
        train_levels(toy(), NET, levels(epochs=1, project_at=(1,)), tmp_path)
    with pytest.raises(DataError, match="not images"):
        train_levels(open_data("digits:layout=64x1"), NET, levels(epochs=1), tmp_path)


@pytest.fixture
def treebank(tmp_path, monkeypatch):
    lines = "the\tDET\tDT\ncat\tNOUN\tNN\nsleeps\tVERB\tVBZ\n\na\tDET\tDT\ndog\tNOUN\tNN\n\n"
    for part in ("train", "dev", "test"):
        with gzip.open(tmp_path / f"ud_english_ewt_{part}.tsv.gz", "wt") as file:
            file.write(lines * (1 if part != "test" else 2) + ("unseen\tX\tFW\n" if part == "test" else ""))
    monkeypatch.setenv("GYROSTAT_DATA", str(tmp_path))
    return tmp_path


def test_tagged_sentences(treebank):
    data = ud_english_ewt()
    assert data.x.shape == (9, 3)
    assert data.tags == ("DET", "NOUN", "VERB", "X")
    assert data.x[1, 2] == 0
    assert data.y[1, 2] == -100
    assert data.x[8, 0] == 1  # a word that the training part does not have
    assert [len(data.split[k]) for k in ("train", "valid", "test")] == [2, 2, 5]
    net = NetConfig("tags", outputs=4, inputs=len(data.words), embed_dim=8, solver="euler", max_length=3)
    config = levels(epochs=3, optimizer="adamw", momentum=0.0, lr=0.05, refine_at=(2,))
    result = train_levels(data, net, config, treebank / "run").result
    assert result["history"][-1]["train_loss"] < result["history"][0]["train_loss"]
    (treebank / "ud_english_ewt_dev.tsv.gz").write_bytes(b"not gzip")
    with pytest.raises(DataError, match="not a whole gzip file"):
        ud_english_ewt()


def test_the_verbs_train_compress_and_export(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = "train-depth digits --epochs 2 --refine-at 2 --channels 2 --segments 1 --solver euler --quiet"
    assert call(line) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert call(line) == 2  # finished: refuses to overwrite
    assert "--force" in capsys.readouterr().err
    assert call("compress run --basis piecewise_constant:1 --solver euler:1 --out small --quiet --json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["after"]["parameters"] < report["before"]["parameters"]
    assert report["after"]["evaluations"] == 1
    page = (tmp_path / "small" / "report.html").read_text()
    assert "Error against size" in page
    assert call("compress run --tol 0.5 --out other --quiet") == 0
    assert blocks(load_levels(tmp_path / "small")[0])["blocks.0"].basis.K == 1
    assert call("export small --out small.pt2 --image-size 8") == 0
    assert (tmp_path / "small.pt2").is_file()
    capsys.readouterr()
    for bad, words in (
        ("compress run --out x", "one of the two"),
        ("compress run --tol 0.1 --basis hat:2 --out x", "one of the two"),
        ("compress nothing --tol 0.1 --out x", "no such checkpoint"),
        ("compress run --basis hut:2 --out x", "did you mean 'hat'"),
        ("compress run --basis hat:2 --solver euler:0 --out x", "euler:4"),
        ("export run --out model.pt", "must end in .onnx"),
        ("export run --out small.pt2", "--force"),
        ("train-depth digits:layout=8x8 --refine-at soon --out y", "10,20,30"),
        ("train-depth digits:layout=8x8 --solver dopri5 --out y", "solver must be one of"),
        ("train-depth digits:layout=8x8 --basis dg_linear:3 --out y", "even"),
    ):
        assert call(bad) == 2, bad
        said = capsys.readouterr().err
        assert words in said
        assert "Traceback" not in said
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "y").exists()


def test_a_plan_that_cannot_be_followed_is_refused_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = "train-depth digits:layout=8x8 --channels 2 --segments 1 --solver euler --quiet --out run "
    for bad, words in (
        ("--epochs 3 --refine-at 2,30", "epoch 30, but the run has 3"),
        ("--epochs 3 --project-at 2", "cannot be halved"),
        ("--epochs 3 --refine-at 2 --project-at 2", "take one of the two"),
        ("--epochs 1 --device nowhere", "--device nowhere: is not available"),
        ("--epochs 1 --dropout nan", "dropout must be"),
        ("--epochs 1 --refine-noise 1e999", "which is too large"),
        ("--epochs 1 --accumulate 99999999999999999999", "which is too large"),
    ):
        assert call(start + bad) == 2, bad
        said = capsys.readouterr().err
        assert words in said
        assert "Traceback" not in said
        assert not (tmp_path / "run").exists()
    plan = levels(epochs=5, refine_at=(2, 3), project_at=(5,)).plan("hat:2")
    assert [b.K for b in plan] == [2, 3, 5, 2]


def test_images_are_attacked_in_their_range(tmp_path, capsys):
    line = "train-depth digits --channels 2 --segments 1 --solver euler --epochs 1 --quiet --out"
    assert call(f"{line} {tmp_path / 'run'} --adversarial linf:0.1:1") == 0
    assert "robust" in capsys.readouterr().out
    assert call(f"{line} {tmp_path / 'other'} --adversarial far") == 2
    assert capsys.readouterr().err.count("gyrostat: error:") == 1


def test_compress_measures_only_on_data_the_network_reads(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_levels(toy(), NET, levels(epochs=1), tmp_path / "run", source="toy")
    for data, words in (("digits:layout=8x8", "same layout"), ("digits:layout=64x1", "not images")):
        assert call(f"compress run --tol 0.1 --data {data} --out small --quiet") == 2
        assert words in capsys.readouterr().err
    (tmp_path / "model.onnx").write_bytes(b"0" * 64)
    assert call("compress model.onnx --tol 0.1 --data digits --out small") == 2
    assert "name a run directory" in capsys.readouterr().err


def test_an_exported_file_names_no_path_and_adds_little_to_the_weights(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    train_levels(toy(), NET, levels(epochs=1), tmp_path / "run", source="toy")
    assert call("export run --out model.onnx") == 0
    written = (tmp_path / "model.onnx").read_bytes()
    assert b".py" not in written
