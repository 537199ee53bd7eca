"""Shape against texture; images that excite features."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gyrostat._errors import ArgumentError, ShapeError
from gyrostat.transfer.network import ConvNet
from gyrostat.transfer.texture import low_pass, shape_texture, shuffle_patches
from gyrostat.transfer.visualise import visualise_features


@settings(max_examples=20, deadline=None)
@given(H=st.integers(1, 9), W=st.integers(1, 9), k=st.integers(1, 9), seed=st.integers(0, 9))
def test_transforms_keep_what_they_should(H, W, k, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 2, H, W, generator=g)
    if k > min(H, W):
        for transform in (low_pass, shuffle_patches):
            with pytest.raises(ArgumentError, match="shape_texture"):
                transform(x, k)
        return
    shuffled = shuffle_patches(x, k, generator=g)
    torch.testing.assert_close(shuffled.flatten(2).sort().values, x.flatten(2).sort().values)
    smooth = low_pass(x, k)
    assert smooth.shape == x.shape
    assert float(smooth.min()) >= float(x.min()) - 1e-6
    assert float(smooth.max()) <= float(x.max()) + 1e-6
    constant = torch.full((1, 1, H, W), 0.3)
    torch.testing.assert_close(low_pass(constant, k), constant)
    if k == 1:
        assert torch.equal(smooth, x)
        assert torch.equal(shuffled, x)


def test_a_reader_of_texture_and_a_reader_of_shape():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 2
    checker = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 1.0
    x = torch.full((60, 1, 8, 8), 0.5) + 0.02 * torch.rand(60, 1, 8, 8, generator=g)
    x[y == 1] += 0.3 * (checker - 0.5)  # class 1 has a texture
    x[y == 1, :, :4] += 0.2  # and a bright upper half, a shape
    x[y == 0, :, 4:] += 0.2
    roughness = lambda x: (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3))  # noqa: E731
    texture = shape_texture(lambda x: torch.stack([0.1 - roughness(x), roughness(x) - 0.1], 1), (x, y))
    half = lambda x: x[:, :, :4].mean((1, 2, 3)) - x[:, :, 4:].mean((1, 2, 3))  # noqa: E731
    shape = shape_texture(lambda x: torch.stack([-half(x), half(x)], 1), (x, y))
    assert texture.low_pass[0] == texture.patch_shuffle[0] == shape.low_pass[0] == 1.0
    assert texture.low_pass[1] == 0.5
    assert texture.patch_shuffle[1] == 1.0
    assert shape.low_pass[1] == 1.0
    assert shape.patch_shuffle[1] < 0.8
    axes = texture.plot(label="texture")
    shape.plot(axes, label="shape", index=1)
    assert len(axes[0].lines) == 2
    again = shape_texture(lambda x: torch.stack([-half(x), half(x)], 1), (x, y))
    assert again == shape


def test_features_are_excited_within_the_range_and_the_network_is_left_alone():
    net = ConvNet(1, 3, width=2).train()
    found = visualise_features(net, range(32), shape=(1, 8, 8), steps=20)
    assert found.images.shape == (32, 1, 8, 8)
    assert all(b >= a for a, b in zip(found.before, found.after))  # a dead ReLU stays where it is
    assert sum(found.after) > 1.5 * sum(found.before)
    assert float(found.images.min()) >= 0
    assert float(found.images.max()) <= 1
    assert net.training
    assert not net.head._forward_pre_hooks
    assert found.layer == "head"
    torch.testing.assert_close(net.eval().features(found.images)[0, 0], torch.tensor(found.after[0]))
    inside = visualise_features(net, [1], start=torch.zeros(1, 8, 8), layer="blocks.1", steps=3)
    assert len(inside.plot().axes) == 1
    assert not net.blocks[1]._forward_hooks


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"features": [99]}, "features must be"),
        ({"features": []}, "give features"),
        ({"start": torch.zeros(1, 8, 8)}, "one of the two"),
        ({"layer": "block"}, "did you mean 'blocks'"),
        ({"shape": (3, 8, 8)}, "do not fit"),
        ({"steps": 0}, "steps"),
    ],
)
def test_bad_input_is_one_sentence(change, word):
    arguments = {"model": ConvNet(1, 3, width=2), "features": [0], "shape": (1, 8, 8)} | change
    with pytest.raises(ArgumentError, match=word):
        visualise_features(**arguments)
    with pytest.raises(ArgumentError, match="images"):
        shape_texture(nn.Identity(), (torch.zeros(2, 3), torch.tensor([0, 1])))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in arguments["model"].modules())


@pytest.mark.parametrize(
    ("model", "label", "word"),
    [
        (lambda x: (x.flatten(1), x), 0, "got tuple"),
        (lambda x: x.flatten(), 0, "must return logits"),
        (nn.Flatten(), 16, "from 0 to 15"),
    ],
)
def test_shape_texture_refuses_what_is_not_a_classifier_of_these_labels(model, label, word):
    with pytest.raises((ArgumentError, ShapeError), match=word):
        shape_texture(model, (torch.rand(1, 1, 4, 4), torch.tensor([label])))
