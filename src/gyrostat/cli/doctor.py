"""``gyrostat doctor``: versions, devices, which path runs, and a self-test."""

from __future__ import annotations


def doctor(*, json: bool = False) -> int:
    """Say what is installed, which kernels run and why, and check one layer against a loop written out by hand.

    Example: gyrostat doctor
    Takes two seconds.

    Args:
        json: Print JSON.
    """
    import importlib.util

    import torch

    from ..recurrent.cell import cell_names
    from ..recurrent.kernels import describe
    from ..recurrent.layer import Recurrent
    from ..sketch import native
    from ._shared import facts, print_json

    found = facts()
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    kernels, sketches = describe(), native.describe()
    backends = {name: Recurrent(2, 3, cell=name).backend_in_use for name in cell_names()}
    extras = {p: importlib.util.find_spec(p) is not None for p in ("datasets", "dask", "onnxruntime", "tensorboard")}
    layer = Recurrent(2, 3, cell="lem", dtype=torch.float64)
    x = torch.randn(5, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole, _ = layer(x)
    state, steps = None, []
    for x_t in x:
        y_t, state = layer.step(x_t, state)
        steps.append(y_t)
    passed = bool(torch.equal(torch.stack(steps), whole))
    if json:
        print_json(
            {
                **found,
                "kernels": kernels,
                "sketches": sketches,
                "backends": backends,
                "extras": extras,
                "self_test": passed,
            }
        )
        return 0 if passed else 1
    for key, value in found.items():
        print(f"{key:10} {value}")
    for name, what in (("kernels", kernels), ("sketches", sketches)):
        print(f"{name:10} " + ", ".join(f"{key}: {value}" for key, value in what.items()))
    for name, words in backends.items():
        print(f"{name:15} {words}")
    print("optional packages: " + ", ".join(f"{p} {'yes' if there else 'no'}" for p, there in extras.items()))
    print(f"self-test: {'passed' if passed else 'FAILED: stepping does not equal the whole pass'}")
    return 0 if passed else 1
