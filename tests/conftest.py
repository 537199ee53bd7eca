"""Shared by all tests: seeds, one thread, golden arrays, memory never written is poisoned."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

HERE = Path(__file__).parent
SHIPPED = HERE / "golden"
WHOLE = Path(os.environ.get("GYROSTAT_GOLDEN", HERE.parent.parent / "shared" / "golden"))


def golden_names(pattern: str) -> list[str]:
    """Stems of all golden files that match, those shipped with the tests and those of the whole folder."""
    found = {p.stem for folder in (SHIPPED, WHOLE) if folder.is_dir() for p in folder.glob(f"{pattern}.npz")}
    return sorted(found)


def load_golden(name: str) -> dict[str, np.ndarray]:
    """All arrays of a golden file; skips the test where only the whole folder has it and is absent."""
    for folder in (SHIPPED, WHOLE):
        path = folder / f"{name}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as file:
                return {k: file[k] for k in file.files}
    pytest.skip(f"golden file {name}.npz is not shipped with the tests and the whole golden folder is absent")


@pytest.fixture(autouse=True)
def _seeded():
    import torch

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)
