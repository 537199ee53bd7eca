"""Noise laws: functions of seed and image alone, of unit strength, refused where they mean nothing."""

import pytest
import torch

from gyrostat import calibrate, titrate
from gyrostat._errors import ArgumentError
from gyrostat.audit.laws import LAWS, PLACES, draw_noise

SHAPES = [(1, 8, 8), (3, 28, 28), (2, 5, 9), (1, 1, 1)]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_draw_does_not_depend_on_the_batches(law, shape):
    whole = draw_noise(law, 3, 0, slice(0, 80), shape)
    assert whole.shape == (80, *shape)
    assert torch.isfinite(whole).all()
    parts = [draw_noise(law, 3, 0, rows, shape) for rows in (slice(0, 7), slice(7, 40), slice(40, 80))]
    assert torch.equal(torch.cat(parts), whole)
    if law != "patches":  # squares follow the image's index alone
        assert shape == (1, 1, 1) or not torch.equal(draw_noise(law, 4, 0, slice(0, 80), shape), whole)


@pytest.mark.parametrize("law", ["white", "smooth", "waves"])
def test_noise_that_covers_the_image_has_deviation_one(law):
    eta = draw_noise(law, 0, 0, slice(0, 256), (1, 16, 16))
    # 256 images of 256 pixels; few waves per image leave the widest spread, about .03
    assert float((eta**2).mean().sqrt()) == pytest.approx(1, abs=0.1)


def test_patches_visit_every_place_bright_and_dark():
    eta = draw_noise("patches", 0, 0, slice(0, 4 * PLACES**2), (1, 28, 28))[:, 0]  # (N, H, W)
    turns = eta.reshape(4, PLACES**2, 28, 28)
    for turn, (low, high) in zip(turns, ((0, 1), (0, 1), (-1, 1), (-1, 0))):
        assert (float(turn.min()), float(turn.max())) == (low, high)
        assert bool((turn != 0).any(0).all()), "some pixel is never covered"


def test_the_law_is_part_of_what_must_agree():
    torch.manual_seed(0)
    nets = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)) for _ in range(3)]
    asked = {"input_shape": (1, 8, 8), "n": 32}
    reference = calibrate(nets, noise_law="smooth", **asked)
    assert reference.score(titrate(nets[0], noise_law="smooth", **asked)).D is not None
    with pytest.raises(ArgumentError, match="noise 'smooth' against 'white'"):
        reference.score(titrate(nets[0], **asked))


def test_structured_noise_is_for_images():
    with pytest.raises(ArgumentError, match="for images"):
        titrate(lambda x: x, torch.rand(4, 3), noise_law="patches")
    with pytest.raises(ArgumentError, match="did you mean 'waves'"):
        titrate(lambda x: x, torch.rand(4, 3), noise_law="wave")


def test_methods_are_named_and_their_settings_checked():
    nets = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)) for _ in range(3)]
    with pytest.raises(ArgumentError, match="did you mean 'structured'"):
        calibrate(nets, method="structure", input_shape=(1, 8, 8))
    with pytest.raises(ArgumentError, match="softening"):
        calibrate(nets, softening=0.0, input_shape=(1, 8, 8))
    with pytest.raises(ArgumentError, match="does not go with"):
        calibrate(nets, method="structured", paper=True, input_shape=(1, 8, 8))
    made = calibrate(nets, method="structured", n=8, input_shape=(1, 8, 8))
    assert (made.settings["n"], made.settings["base"], made.softening) == (8, "procedural", 0.02)
    noise = torch.zeros(8, 1, 8, 8)
    with pytest.raises(ArgumentError, match="noise of its own"):
        calibrate(nets, noise=noise, n=8, input_shape=(1, 8, 8)).asked()
