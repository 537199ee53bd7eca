"""Recipes are found by listing the folder, say honestly what they change, and print our number beside the published one."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from gyrostat._errors import ArgumentError
from gyrostat.cli.app import run
from gyrostat.data.catalogue import sources
from gyrostat.experiments.recipe import SCALES, Computation, Finding, Reference, get_recipe, recipes, report
from gyrostat.experiments.training import Arm, Scale, Training, work
from gyrostat.train.config import TrainConfig
from gyrostat.train.model import model_names


def trainings():
    return [r for r in recipes().values() if isinstance(r, Training)]


@pytest.mark.parametrize("recipe", trainings(), ids=lambda r: r.name)
def test_every_setting_of_a_recipe_can_be_used(recipe, tmp_path):
    assert set(recipe.scales) <= set(SCALES)
    assert recipe.headline() is not None or "No number stands beside ours" in recipe.note
    for scale in recipe.scales:
        for job in recipe.jobs(scale, tmp_path):
            TrainConfig(**job.train)
            assert job.model in model_names()
            assert job.data.partition(":")[0] in sources()
        assert scale == "paper" or recipe.differences(scale) or "Not an experiment of the paper" in recipe.note
    for arm in recipe.arms:
        assert set(arm.references) <= set(recipe.quantities)


def test_the_published_numbers_and_settings_are_those_of_the_spec():
    known = recipes()
    paper = {r.name: r.jobs("paper", Path())[0] for r in trainings() if "paper" in r.scales}
    for name, lr, dt, units, published in (
        ("lem-adding", 2.6e-3, 0.0242, 128, 5e-5),
        ("lem-fitzhugh-nagumo", 9.04e-3, 1.0, 16, 2.377e-3),
        ("lem-smnist", 1.8e-3, 0.21, 128, 0.9945),
        ("lem-psmnist", 7.3e-3, 0.31, 128, 0.9662),
        ("lem-ncifar", 3.22e-3, 0.44, 128, 0.605),
        ("lem-eigenworms", 6.09e-3, 1.7e-4, 32, 0.923),
        ("lem-heart-rate", 2.11e-3, 0.2371, 128, 0.8539),
        ("lem-google12", 8.9e-4, 1.0, 128, 0.9567),
        ("lipschitz-smnist", 3e-3, 0.03, 128, 0.994),
        ("lipschitz-psmnist", 3.5e-3, 0.03, 128, 0.963),
        ("noisy-smnist", 1e-3, 0.01, 128, 0.991),
        ("noisy-psmnist", 1e-3, 0.01, 128, 0.949),
    ):
        job = paper[name]
        assert (job.train["lr"], job.options["dt"], job.hidden_size) == (lr, dt, units)
        assert known[name].headline()[1].value == published


TINY = Training(
    "tiny", "A small one", "2110.04744", data="adding:length=500,n=20000", hidden_size=128,
    quantities=("test MSE", "steps", "max Re λ(A)"), train={"epochs": 9, "batch_size": 16},
    arms=(Arm("LEM", "lem", references={"test MSE": Reference(1e-3, "paper")}), Arm("Lipschitz", "lipschitz")),
    scales={"smoke": Scale("seconds", "adding:length=8,n=60", 4, train={"epochs": 1}, seeds=2), "paper": Scale("days")},
)  # fmt: skip


def test_a_recipe_of_trainings_measures_resumes_and_says_what_it_changed(tmp_path, monkeypatch):
    said = []
    found = TINY.run("smoke", tmp_path, say=said.append)
    assert len(said) == 4
    assert [(f.what, f.quantity) for f in found] == [
        ("LEM", "test MSE"), ("LEM", "steps"), ("Lipschitz", "test MSE"), ("Lipschitz", "steps"),
        ("Lipschitz", "max Re λ(A)"),
    ]  # fmt: skip
    assert found[0].spread > 0
    assert found[0].reference.value == 1e-3
    assert found[2].reference is None
    words = TINY.differences("smoke")
    assert words == ["data adding:length=8,n=60 instead of adding:length=500,n=20000", "4 units instead of 128",
                     "epochs 1 instead of 9"]  # fmt: skip
    monkeypatch.setattr("gyrostat.train.loop.train", None)  # everything is there already
    assert TINY.run("smoke", tmp_path) == found
    assert work(TINY.jobs("smoke", tmp_path)[0])["steps"] == 3
    assert json.loads(json.dumps(report(TINY, "smoke", found)))["findings"][0]["reference"]["source"] == "paper"


def test_a_recipe_can_be_any_function(tmp_path):
    number = Reference(3.14, "paper")
    recipe = Computation(
        "pi", "The area of a disc", "0000.00000", measure=lambda scale, folder: [Finding(scale, "area", 3.0, None, number)],
        scales={"smoke": "no time"}, known_for=("area", number), leaves={"smoke": ("one digit instead of three",)},
    )  # fmt: skip
    assert recipe.run("smoke", tmp_path)[0].value == 3.0
    assert recipe.differences("smoke") == ["one digit instead of three"]


def test_scales_are_chosen_and_checked():
    assert get_recipe("lem-adding")[1] == "small"
    assert get_recipe("lem-eigenworms")[1] == "smoke"
    with pytest.raises(ArgumentError, match="did you mean 'lem-adding'"):
        get_recipe("lem-ading")
    with pytest.raises(ArgumentError, match="did you mean 'small'"):
        get_recipe("lem-adding", "smal")


def test_the_verb_lists_refuses_and_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GYROSTAT_DATA", raising=False)
    assert run(["reproduce"]) == 0
    assert "lem-fitzhugh-nagumo" in capsys.readouterr().out
    assert run(["reproduce", "--json"]) == 0
    assert "takes" in json.loads(capsys.readouterr().out)["lem-adding"]
    for line in (
        ["lem-smnist"],
        ["lem-eigenworms"],
        ["lem-adding", "--scale", "huge"],
        ["nothing"],
        ["lem-adding", "--workers", "-1"],
    ):
        assert run(["reproduce", *line]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def idx(path, array):
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    with gzip.open(path, "wb") as file:
        file.write(bytes([0, 0, 8, array.ndim]) + shape + array.astype(np.uint8).tobytes())


def test_a_recipe_runs_on_the_users_files(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "mnist").mkdir()
    for stem, n in (("train", 60), ("t10k", 20)):
        idx(tmp_path / "mnist" / f"{stem}-images-idx3-ubyte.gz", rng.integers(0, 255, (n, 4, 4)))
        idx(tmp_path / "mnist" / f"{stem}-labels-idx1-ubyte.gz", np.arange(n) % 10)
    monkeypatch.setenv("GYROSTAT_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    line = ["reproduce", "lem-smnist", "--scale", "smoke", "--workers", "1", "--quiet"]
    assert run([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["findings"][0]["reference"] == {"value": 0.9945, "source": "released log"}
    assert "32 units instead of 128" in found["differences"]
    assert run(line) == 2  # finished
    assert "--force" in capsys.readouterr().err
    page = (tmp_path / "reproduced" / "lem-smnist-smoke" / "report.html").read_text()
    assert "0.9945" in page
