"""The counter-based generator: known answers of the published test vectors, and what its numbers look like."""

import pytest
import torch

from gyrostat.numerics.philox import draw_seeds, normal, philox, uniform

# philox4x32 with 10 rounds: counter, key and result of the authors' kat_vectors
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    words = philox(tuple(map(torch.tensor, key)), tuple(map(torch.tensor, counter)))
    assert [int(w) for w in words] == expected


def test_a_step_alone_has_the_numbers_of_the_whole():
    seeds = draw_seeds(7, torch.device("cpu"), torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)
    assert torch.equal(seeds, torch.cat([draw_seeds(1, torch.device("cpu"), g) for _ in range(7)]))
    whole = normal(seeds, 5, 70, torch.empty(()))
    assert torch.equal(whole[2:3], normal(seeds[2:3], 5, 70, torch.empty(())))
    assert torch.equal(whole[:, :3, :9], normal(seeds, 3, 9, torch.empty(()))), "a place decides, not the size"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_and_independence(dtype):
    seeds = draw_seeds(40, torch.device("cpu"), torch.Generator().manual_seed(1))
    z, u = (law(seeds, 50, 130, torch.empty((), dtype=dtype)).double() for law in (normal, uniform))
    n = z.numel()
    assert abs(z.mean()) < 5 / n**0.5
    assert abs(z.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs(z.pow(4).mean() - 3) < 5 * (96 / n) ** 0.5
    assert abs(u.mean() - 0.5) < 5 * (1 / 12 / n) ** 0.5
    assert ((u > 0) & (u < 1)).all()
    for a, b in ((z[1:], z[:-1]), (z[:, 1:], z[:, :-1]), (z[..., 16:], z[..., :-16]), (z, u - 0.5)):
        assert abs((a * b).mean()) < 5 / a.numel() ** 0.5
