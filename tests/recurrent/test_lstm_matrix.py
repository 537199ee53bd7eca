"""torch.nn.LSTM, GRU and RNN, their mathematics run through our wrapper, agree with torch's own on every configuration."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from gyrostat import Recurrent
from gyrostat.recurrent.cell import Cell


class _Torch(Cell):
    gates = 1
    time_step = False

    def parameter_shapes(self):
        G, H = self.gates * self.hidden_size, self.hidden_size
        return {"weight_ih": (G, self.input_size), "weight_hh": (G, H), "bias_ih": (G,), "bias_hh": (G,)}

    def prepare(self, parameters, dt):
        return parameters

    def products(self, p, x, h):
        return F.linear(x, p["weight_ih"], p["bias_ih"]), F.linear(h, p["weight_hh"], p["bias_hh"])


class TorchLSTM(_Torch):
    name, states, gates = "toy_lstm", ("h", "c"), 4

    def step(self, weights, x, state, dt, extras=()):
        a, b = self.products(weights, x, state[0])
        i, f, g, o = (a + b).chunk(4, -1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class TorchGRU(_Torch):
    name, gates = "toy_gru", 3

    def step(self, weights, x, state, dt, extras=()):
        (h,) = state
        (ir, iz, inn), (hr, hz, hn) = (v.chunk(3, -1) for v in self.products(weights, x, h))
        r, z = (ir + hr).sigmoid(), (iz + hz).sigmoid()
        return ((1 - z) * (inn + r * hn).tanh() + z * h,)


class TorchRNN(_Torch):
    name = "toy_rnn"

    def step(self, weights, x, state, dt, extras=()):
        a, b = self.products(weights, x, state[0])
        return ((a + b).tanh(),)


KINDS = {"toy_lstm": nn.LSTM, "toy_gru": nn.GRU, "toy_rnn": nn.RNN}
MATRIX = list(
    itertools.product(KINDS, (1, 2, 3), (False, True), (False, True), ("batched", "unbatched", "packed"), (False, True))
)


@pytest.mark.parametrize(("kind", "layers", "both", "batch_first", "form", "with_state"), MATRIX)
def test_equals_torch(kind, layers, both, batch_first, form, with_state):
    T, B, F_in, H, D = 5, 4, 3, 4, 2 if both else 1
    theirs = KINDS[kind](F_in, H, layers, batch_first=batch_first, bidirectional=both, dtype=torch.float64)
    ours = Recurrent(F_in, H, layers, cell=kind, batch_first=batch_first, bidirectional=both, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, F_in, dtype=torch.float64)
    states = [torch.randn(layers * D, B, H, dtype=torch.float64) for _ in ours.cells[0].states]
    if form == "unbatched":
        x, states = x[:, 0], [s[:, 0] for s in states]
    elif form == "packed":
        x = pack_padded_sequence(x, torch.tensor([2, 5, 1, 4]), enforce_sorted=False)
    elif batch_first:
        x = x.transpose(0, 1)
    given = (tuple(states) if len(states) > 1 else states[0]) if with_state else None
    (a, s), (b, t) = ours(x, given), theirs(x, given)
    if isinstance(a, PackedSequence):
        assert torch.equal(a.batch_sizes, b.batch_sizes)
        a, b = a.data, b.data
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    for u, v in zip((s,) if torch.is_tensor(s) else s, (t,) if torch.is_tensor(t) else t, strict=True):
        torch.testing.assert_close(u, v, rtol=1e-12, atol=1e-12)


def test_the_matrix_is_large_enough():
    assert len(MATRIX) >= 216
