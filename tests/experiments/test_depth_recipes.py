"""Recipes of continuous depth: settings that can be used, levels in order, numbers measured after changes."""

from pathlib import Path

import pytest

from gyrostat.experiments.depth_training import Arm, DepthTraining, Scale, work
from gyrostat.experiments.recipe import Reference, recipes
from gyrostat.train.config import TrainConfig
from gyrostat.train.levels import Levels, NetConfig

ALL = [r for r in recipes().values() if isinstance(r, DepthTraining)]


@pytest.mark.parametrize("recipe", ALL, ids=lambda r: r.name)
def test_every_setting_can_be_used(recipe):
    for scale in recipe.scales:
        for job in recipe.jobs(scale, Path()):
            levels = Levels(TrainConfig(**job.train), job.refine_at)
            assert len(set(job.refine_at)) == len(job.refine_at)
            units = recipe.scales[scale].units or recipe.units
            assert units == levels.plan(job.net["basis"])[-1].K
            NetConfig("tags" if "embed_dim" in job.net else "image", 3, 3, **job.net).build()
        assert scale == "paper" or recipe.differences(scale)
    for arm in recipe.arms:
        assert set(arm.references) <= set(recipe.quantities)


def test_the_published_settings_are_those_of_the_specification():
    paper = {name: recipes()[name].jobs("paper", Path()) for name in ("continuousnet-cifar10", "stateful-compression")}
    euler, _, grown = paper["continuousnet-cifar10"]
    assert (euler.net["scale"], grown.net["scale"], grown.refine_at) == (8.0, 1.0, (31, 51, 71))
    assert (euler.train["weight_decay"], grown.train["weight_decay"], grown.train["epochs"]) == (5e-4, 1e-4, 120)
    grown, direct = paper["stateful-compression"]
    assert (grown.refine_at, grown.train["decay_at"], direct.net["scale"]) == ((20, 40, 70, 90), (80, 120, 160), 16.0)
    assert recipes()["continuousnet-cifar10"].headline()[1] == Reference(0.9311, "page of the released code")


TINY = DepthTraining(
    "tiny-depth", "A small one", "2008.02389", data="cifar10", units=8, train={"epochs": 90, "decay_at": (60,), "lr": 0.05},
    quantities=("test accuracy", "test accuracy, K / 2 and N / 2", "test accuracy, N x 2", "parameters"),
    arms=(Arm("grown", {"solver": "euler"}, (10, 20, 30), {}, {"test accuracy": Reference(0.9, "paper")}),
          Arm("direct", {"solver": "euler", "scale": "units"})),
    scales={"smoke": Scale("seconds", "digits", 4, 3, {"channels": 2, "segments": 1}, seeds=2)},
)  # fmt: skip


def test_a_recipe_measures_and_what_is_finished_is_not_done_again(tmp_path, monkeypatch):
    said = []
    found = TINY.run("smoke", tmp_path, say=said.append)
    assert len(said) == 4
    assert [f.what for f in found] == ["grown"] * 4 + ["direct"] * 4
    assert found[0].reference == Reference(0.9, "paper")
    assert found[3].value == found[7].value  # both end with four units
    assert all(0 <= f.value <= 1 for f in found if f.quantity != "parameters")
    assert (tmp_path / "runs" / "0-seed0" / "level-2-k2.safetensors").is_file()
    monkeypatch.setattr("gyrostat.train.levels.train_levels", None)
    assert TINY.run("smoke", tmp_path) == found
    assert work(TINY.jobs("smoke", tmp_path)[0])["parameters"] == found[3].value
    assert TINY.differences("smoke")[:2] == [
        "data: digits instead of cifar10", "units in each block: 4 instead of 8",
    ]  # fmt: skip
