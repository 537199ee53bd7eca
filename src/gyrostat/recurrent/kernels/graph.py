"""Steps recorded once as a CUDA graph and replayed: what a recurrence costs when each step is a handful of launches.

A ``Plan`` owns buffers for some steps and the function that runs the first n of them; the arguments of a call are copied into
its buffers, which a recording has the addresses of. On other devices the function just runs. Plans are kept by what their
recordings depend on: sizes, settings, device, stream and the precision of the products.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor

from .shapes import BLOCK, precision

STEPS = 64  # of one recording, at the most
ROOM = 64 * 2**20  # bytes for one array of a plan
KEPT = 4  # plans


class Recorded:
    """A function of a number of steps; on a GPU each number is recorded when it comes for the second time, then replayed."""

    def __init__(self, body: Callable[[int], None], device: torch.device) -> None:
        self.body, self.device, self.on_gpu = body, device, device.type == "cuda"
        self.seen: set[int] = set()
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def __call__(self, n: int) -> None:
        """Run the first ``n`` steps."""
        if not self.on_gpu or torch.cuda.is_current_stream_capturing():
            self.body(n)  # inside somebody else's recording it becomes part of that
        elif n in self.graphs:
            self.graphs[n].replay()
        elif n not in self.seen:
            self.seen.add(n)
            self.body(n)  # compiles kernels and opens libraries, which no recording may do
        else:
            graph = torch.cuda.CUDAGraph()
            # other threads go on meanwhile: the backward pass is one
            with (
                torch.cuda.device(self.device),
                torch.cuda.graph(graph, stream=torch.cuda.Stream(self.device), capture_error_mode="thread_local"),
            ):
                self.body(n)
            self.graphs[n] = graph
            graph.replay()


class Plan:
    """Buffers with names and what runs on them; two callers of one plan take turns."""

    def __init__(self, like: Tensor) -> None:
        self.like, self.lock = like.new_empty(0), threading.Lock()
        self.buffers: dict[str, Tensor] = {}
        self.run: Any = None

    def empty(self, name: str, *shape: int) -> Tensor:
        """A new buffer."""
        self.buffers[name] = self.like.new_empty(shape)
        return self.buffers[name]

    def like_steps(self, name: str, t: Tensor | None, steps: int | None) -> Tensor | None:
        """A buffer for ``steps`` steps of a tensor ``(T, ...)``, or for a tensor without time."""
        if t is not None:
            self.buffers[name] = t.new_empty(t.shape if steps is None else (steps, *t.shape[1:]))
        return self.buffers.get(name)

    def fill(self, part: slice | None = None, /, **tensors: Tensor | None) -> None:
        """Copy arguments, or the steps ``part`` of them, into the buffers of the same names."""
        for name, t in tensors.items():
            if t is not None:
                piece = t if part is None else t[part]
                self.buffers[name][: piece.shape[0]].copy_(piece)


_PLANS: OrderedDict[Hashable, Plan] = OrderedDict()
_LOCK = threading.Lock()


def plan(make: Callable[[], Plan], like: Tensor, *key: Hashable) -> Plan:
    """The plan for a key, made when there is none; the one not used for longest goes when there are too many."""
    stream = torch.cuda.current_stream(like.device).cuda_stream if like.is_cuda else 0
    full = (*key, like.device, like.dtype, stream, precision())
    with _LOCK:
        if full not in _PLANS:
            with torch.inference_mode(False):  # later calls write into the buffers in whatever mode they are
                _PLANS[full] = make()
        _PLANS.move_to_end(full)
        if len(_PLANS) > KEPT:
            _PLANS.popitem(last=False)
        return _PLANS[full]


def chunk_of(B: int, H: int) -> int:
    """Steps of one plan: whole blocks, so that states kept every block fall on their first step."""
    return max(BLOCK, min(STEPS, ROOM // (4 * B * H) // BLOCK * BLOCK))


def chunks(T: int, size: int) -> Iterator[tuple[slice, int]]:
    """The steps of each chunk and how many they are."""
    for start in range(0, T, size):
        stop = min(start + size, T)
        yield slice(start, stop), stop - start
