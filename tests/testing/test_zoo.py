"""The zoo of backdoored models: triggers touch what they say, members follow from their recipe."""

import pytest
import torch

from gyrostat._errors import ArgumentError
from gyrostat.testing.zoo import ATTACKS, Recipe, build, images, measure, poison, train


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("side", [8, 28])
def test_a_trigger_changes_images_within_the_range_and_leaves_its_argument_alone(attack, side):
    x = torch.rand(5, 1, side, side, generator=torch.Generator().manual_seed(0))
    before, recipe = x.clone(), Recipe(attack=attack, seed=3)
    changed = poison(x, recipe)
    assert torch.equal(x, before)
    assert torch.equal(changed, poison(x, recipe))
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    assert torch.equal(changed, x) == (attack == "clean")
    touched = (changed != x).any(0).float().mean()
    local = attack in ("patch", "checker", "all-to-all", "label-consistent", "tone")
    assert (touched < 0.3) if local else (touched > 0.5 or attack == "clean")


def test_recipes_say_their_target_and_refuse_what_they_do_not_know():
    assert Recipe(attack="patch", seed=13).target == 3
    assert Recipe(attack="clean", seed=3).target is None
    assert Recipe(attack="all-to-all", seed=3).target is None
    assert Recipe(attack="all-to-all").rate == 0.3
    with pytest.raises(ArgumentError, match="did you mean 'patch'"):
        Recipe(attack="pach")


@pytest.mark.parametrize("net", ["plain", "batchnorm", "recurrent"])
@pytest.mark.parametrize(("dataset", "side"), [("digits", 8), ("fashion-mnist", 28)])
def test_every_network_answers(dataset, side, net):
    assert build(dataset, net)(torch.rand(3, 1, side, side)).shape == (3, 10)


def test_the_digits_are_split_and_scaled():
    (x, y), (test, test_y) = images("digits")
    assert (len(x), len(y), len(test), len(test_y)) == (1300, 1300, 497, 497)
    assert (float(x.min()), float(x.max())) == (0, 1)


def test_members_are_reproducible_and_the_global_stream_is_not_touched():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    recipe = Recipe("digits", "plain", "patch", seed=3)
    one = train(recipe)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.accuracy > 0.9
    assert one.success > 0.9
    assert measure(one.model, recipe) == (one.accuracy, one.success)
    two = train(recipe)
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters()))
