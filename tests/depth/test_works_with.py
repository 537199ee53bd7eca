"""Blocks inside the rest of torch: compile, autocast, DDP, channels-last, func, export, ONNX."""

import copy
import os
import socket
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from gyrostat.depth.block import ContinuousBlock
from gyrostat.depth.convnet import ContinuousNet
from gyrostat.numerics.basis import Hat, PiecewiseConstant


def net(**options):
    settings = {"channels": 4, "basis": PiecewiseConstant(2), "solver": "midpoint", "segments": 2, **options}
    return ContinuousNet(1, 3, **settings)


def images(n=4, seed=0):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("basis", [PiecewiseConstant(2), Hat(2)], ids=str)
@pytest.mark.parametrize("train", [True, False])
def test_compiles_into_one_graph(basis, train):
    plain = net(basis=basis).train(train)
    twin = copy.deepcopy(plain)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    x = images()
    for _ in range(2):
        a, b = plain(x), compiled(x)
        # the same operations: decompositions may round differently
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    if train:
        a.sum().backward()
        b.sum().backward()
        for p, q in zip(plain.parameters(), twin.parameters()):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-4)
    for p, q in zip(plain.buffers(), twin.buffers()):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)


def test_autocast_adds_up_in_float32():
    model = net().eval()
    x = images()
    seen = []
    model.blocks[0]._template.register_forward_hook(lambda _, args, out: seen.append((args[0].dtype, out.dtype)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    assert {state for state, _ in seen} == {torch.float32}
    # eight bits of mantissa in every convolution
    torch.testing.assert_close(y.float(), model(x), rtol=0.1, atol=0.1)


def test_channels_last_keeps_its_layout_and_values():
    model = net().eval()
    x = images()
    y = model(x)
    last = copy.deepcopy(model)
    shapes = []
    last.blocks[0].register_forward_hook(
        lambda _, __, out: shapes.append(out.is_contiguous(memory_format=torch.channels_last))
    )
    torch.testing.assert_close(last(x.to(memory_format=torch.channels_last)), y, rtol=1e-5, atol=1e-6)
    assert shapes == [True]


def test_moves_between_dtypes_and_devices():
    model = net()
    assert model.double()(images().double()).dtype == torch.float64
    assert all(p.is_meta for p in copy.deepcopy(model).to("meta").parameters())


def test_functional_transforms():
    model = net().eval()
    x = images()
    parameters = {k: v.detach() for k, v in model.named_parameters()}

    def loss(parameters, x):
        return torch.func.functional_call(model, parameters, (x[None],)).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    single = torch.func.grad(loss)(parameters, x[1])
    for name, value in per_sample.items():
        torch.testing.assert_close(value[1], single[name], rtol=1e-4, atol=1e-5)
    direction = torch.func.jvp(lambda v: model(v), (x,), (torch.ones_like(x),))[1]
    step = 1e-2
    torch.testing.assert_close(direction, (model(x + step) - model(x - step)) / (2 * step), rtol=0.05, atol=0.05)


def test_export_with_a_dynamic_batch():
    model = net().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (images(3),), dynamic_shapes=({0: batch},))
    for n in (1, 3, 7):
        torch.testing.assert_close(program.module()(images(n)), model(images(n)), rtol=1e-6, atol=1e-6)


def test_onnx_with_a_dynamic_batch(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = net().eval()
    path = tmp_path / "net.onnx"
    batch = torch.export.Dim("batch", min=1, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(model, (images(3),), str(path), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for n in (1, 5):
        found = session.run(None, {session.get_inputs()[0].name: images(n).numpy()})[0]
        # float32 in another order
        np.testing.assert_allclose(found, model(images(n)).detach().numpy(), rtol=1e-4, atol=1e-5)


def _worker(rank, port, results):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = images(8, seed=1)[rank::2], (torch.arange(8) % 3)[rank::2]
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    results[rank] = [p.detach().clone().numpy() for p in model.parameters()]
    torch.distributed.destroy_process_group()


def test_two_processes_train_one_model():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(_worker, (port, results), nprocs=2)
        first, second = results[0], results[1]
    start = [p.detach().numpy() for p in (torch.manual_seed(0), net())[1].parameters()]
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    assert any(not np.array_equal(a, b) for a, b in zip(first, start))


def test_a_torch_encoder_layer_serves_as_unit():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    block = ContinuousBlock(layer, Hat(2), "rk4", 2)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(block.eval()(x), block.train()(x), rtol=1e-4, atol=1e-4)
