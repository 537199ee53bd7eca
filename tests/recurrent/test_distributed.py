"""Two processes, half a batch each, get the gradients of the whole batch, and no parameter is left unused."""

import datetime

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from gyrostat.recurrent.cell import cell_names
from gyrostat.recurrent.layer import Recurrent

OPTIONS = {
    **{name: {} for name in cell_names() if not name.startswith("toy")},
    "orthogonal dtriv": {"parameterization": "dtriv"},
    "vector_field ring": {"geometry": "ring", "flow": "expmv"},
    "vector_field free": {"geometry": "free", "divergence": "zero"},
}


def build(name):
    layer = Recurrent(3, 4, 2, cell=name.split()[0], bidirectional=True, dtype=torch.float64, **OPTIONS[name]).eval()
    layer.reset_parameters(torch.Generator().manual_seed(0))
    return layer


def batch():
    return torch.randn(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def work(rank, folder):
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=limit)
    try:
        gradients = {}
        for name in OPTIONS:
            layer = torch.nn.parallel.DistributedDataParallel(build(name))
            for _ in range(2):  # the second pass fails where the first left a parameter unused
                layer.zero_grad()
                layer(batch()[:, 2 * rank : 2 * rank + 2])[0].square().mean().backward()
            gradients[name] = [p.grad for p in layer.module.parameters()]
        torch.save(gradients, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
def test_gradients_of_two_processes_equal_the_whole_batch(tmp_path):
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        gradients = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name in OPTIONS:
            layer = build(name)
            layer(batch())[0].square().mean().backward()
            for ours, parameter in zip(gradients[name], layer.parameters(), strict=True):
                # double precision, a mean of two halves instead of one sum; a learned geometry goes through an inverse
                rtol = 1e-8 if name.endswith("free") else 1e-11
                torch.testing.assert_close(ours, parameter.grad, rtol=rtol, atol=rtol / 100)
