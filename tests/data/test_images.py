"""Images from every form of their files, and the orders in which recurrent models read them."""

import io
import struct
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
from PIL import Image

from gyrostat import ImageData, open_data, open_images
from gyrostat._errors import DataError, MissingExtraError
from gyrostat.data.batches import Batches
from gyrostat.data.cifar10 import CLASSES, RECORD
from gyrostat.data.images import as_steps
from tests.conftest import WHOLE

rng = np.random.default_rng(0)
TRAIN, TEST = 40, 20


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A small CIFAR-10 in its binary version."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    arrays = {}
    for name, n in (("data_batch_1", TRAIN // 2), ("data_batch_2", TRAIN // 2), ("test_batch", TEST)):
        records = rng.integers(0, 256, (n, RECORD), dtype=np.uint8)
        records[:, 0] = np.arange(n) % 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
        arrays[name] = records
    monkeypatch.setenv("GYROSTAT_DATA", str(tmp_path))
    return arrays


def jpeg(value):
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (value, 10, 20)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def tree():
    """Members of a JPEG tree; the red value says the class."""
    files = {}
    for part, n in (("train", 4), ("test", 2)):
        for k, label in enumerate(CLASSES):
            for i in range(1, n + 1):
                files[f"{part}/{label}/{i:04d}.jpg"] = jpeg(20 * k)
    return files


def write_archive(tmp_path, form, files):
    if form == "folder":
        for name, raw in files.items():
            path = tmp_path / "cifar10_jpeg" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
        return
    with tarfile.open(tmp_path / "cifar10_jpeg.tar.xz", "w:xz") as archive:
        for name, raw in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))


def test_binary_cifar10(cifar):
    images = open_images("cifar10")
    assert images.pixels.shape == (60, 3, 32, 32)
    np.testing.assert_array_equal(images.pixels[25].ravel(), cifar["data_batch_2"][5, 1:])
    np.testing.assert_array_equal(images.y[40:], cifar["test_batch"][:, 0])
    assert sorted(np.concatenate(list(images.split.values()))) == list(range(60))
    x, y = images.part("test", limit=3)
    np.testing.assert_array_equal(x, cifar["test_batch"][:3, 1:].reshape(3, 3, 32, 32) / np.float32(255))
    assert y.tolist() == [0, 1, 2]
    assert images.content_hash == open_images("cifar10").content_hash != open_images("cifar10", seed=1).content_hash


def test_the_binary_archive_is_the_binary_folder(cifar, tmp_path):
    expected = open_images("cifar10").content_hash
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-bin", "cifar-10-batches-bin")
    for file in (tmp_path / "cifar-10-batches-bin").iterdir():
        file.unlink()
    (tmp_path / "cifar-10-batches-bin").rmdir()
    assert open_images("cifar10").content_hash == expected


@pytest.mark.parametrize("form", ["folder", "tar.xz"])
def test_jpeg_cifar10(tmp_path, monkeypatch, tree, form):
    write_archive(tmp_path, form, tree)
    monkeypatch.setenv("GYROSTAT_DATA", str(tmp_path))
    images = open_images("cifar10")
    assert np.bincount(images.y[:40]).tolist() == [4] * 10
    # the classes take turns, so the first images hold all of them
    assert images.y[:10].tolist() == list(range(10))
    assert abs(images.pixels[:, 0].mean((1, 2)) - 20 * images.y).max() <= 3  # JPEG is lossy
    assert len(open_images("cifar10:limit=20").split["test"]) == 4


def test_as_steps():
    images = np.arange(2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)
    np.testing.assert_array_equal(as_steps(images, "pixels")[1, 5], images[1, :, 1, 1])
    np.testing.assert_array_equal(as_steps(images, "rows")[1, 2], images[1, :, 2].ravel())
    np.testing.assert_array_equal(as_steps(images, "16x3")[0, 0], [0, 1, 2])
    np.testing.assert_allclose(as_steps(images, "grey")[0, 6, 0], images[0, :, 1, 2] @ [0.299, 0.587, 0.114], rtol=1e-6)


def test_sequential_cifar10(cifar):
    data = open_data("cifar10:normalize=false")
    assert data.x.shape == (60, 1024, 3)
    np.testing.assert_array_equal(
        data.x[3, 33], cifar["data_batch_1"][3, 1:].reshape(3, 32, 32)[:, 1, 1] / np.float32(255)
    )
    normal = open_data("cifar10")
    expected = (data.x[3, 33] - [0.4914, 0.4823, 0.4465]) / [0.2471, 0.2435, 0.2616]
    np.testing.assert_allclose(normal.x[3, 33], expected, rtol=1e-5)
    code = open_data("cifar10:layout=code,normalize=false,scale=255")
    np.testing.assert_array_equal(code.x[0, :2].ravel(), cifar["data_batch_1"][0, 1:7])
    assert len({d.content_hash for d in (data, normal, code)}) == 3


def test_noise_padded_cifar10(cifar):
    fixed, fresh = open_data("cifar10-noise"), open_data("cifar10-noise:noise=fresh")
    assert fixed.x.shape == (60, 1000, 96)
    row = cifar["data_batch_1"][0, 1:].reshape(3, 32, 32)[:, 7].ravel() / np.float32(255)
    np.testing.assert_array_equal(fixed.x[0, 7], row)
    np.testing.assert_array_equal(fixed.x[0, 32:], fixed.x[59, 32:])
    assert (fresh.x[0, 32:] != fresh.x[1, 32:]).all()
    # a row is the same whoever shares its batch
    np.testing.assert_array_equal(fresh.x[[5, 9]][1], fresh.x[9])
    assert abs(float(fresh.x[0, 32:].std()) - 1) < 0.01
    batch = next(Batches(fixed, "train", 8, shuffle=True).epoch())
    assert batch.x.shape == (8, 1000, 96)
    mixed = open_data("cifar10-noise:layout=code,length=40")
    np.testing.assert_array_equal(mixed.x[0, 1], cifar["data_batch_1"][0, 97:193] / np.float32(255))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-5]), "whole records"),
        (lambda f: f.write_bytes(b"\xff" * RECORD), "label 255"),
        (lambda f: f.write_bytes(b""), "0 bytes"),
        (lambda f: f.unlink(), "lacks training or test"),
    ],
)
def test_damaged_binary(cifar, tmp_path, damage, words):
    damage(tmp_path / "cifar-10-batches-bin" / "test_batch.bin")
    with pytest.raises(DataError, match=words):
        open_images("cifar10")


def test_damaged_jpeg(tmp_path, monkeypatch, tree):
    monkeypatch.setenv("GYROSTAT_DATA", str(tmp_path))
    for bad, words in (
        ({"train/cat/0001.jpg": tree["train/cat/0001.jpg"][:90]}, "not a whole image"),
        ({"train/cat/0001.jpg": b"GIF89a"}, "not a whole image"),
        ({"train/cow/0001.jpg": tree["train/cat/0001.jpg"]}, "cow"),
    ):
        write_archive(tmp_path, "tar.xz", {**tree, **bad})
        with pytest.raises(DataError, match=words):
            open_images("cifar10")
    archive = tmp_path / "cifar10_jpeg.tar.xz"
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(DataError, match="not a whole"):
        open_images("cifar10")


def test_permuted_mnist_is_the_order_of_the_spec(tmp_path, monkeypatch):
    folder = tmp_path / "mnist"
    folder.mkdir()
    pictures = {}
    for part, n in (("train", 60), ("t10k", 10)):
        pictures[part] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        head = b"\0\0\x08\x03" + struct.pack(">3I", n, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + pictures[part].tobytes())
        labels = (np.arange(n) % 10).astype(np.uint8).tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + struct.pack(">I", n) + labels)
    monkeypatch.setenv("GYROSTAT_DATA", str(tmp_path))
    order = np.random.RandomState(92916).permutation(784)
    data = open_data("permuted-mnist")
    np.testing.assert_allclose(data.x[0, :, 0], pictures["train"][0].ravel()[order] / 255, rtol=1e-6)
    released = open_data("permuted-mnist:permute=lipschitz,scale=255,split=lipschitz")
    assert released.x.max() == 255
    expected = np.random.RandomState(1234).permutation(60)[-2:]
    assert sorted(expected) == released.split["valid"].tolist()
    assert open_data("mnist:layout=98x8").x.shape == (70, 98, 8)
    assert open_images("mnist").pixels.shape == (70, 1, 28, 28)
    with pytest.raises(DataError, match="raise limit"):
        open_images("mnist:limit=1")


class Table(list):
    """What ``datasets.load_dataset`` gives, as far as it is used."""


def test_the_hub_gives_the_same_images(monkeypatch):
    asked = []

    def load_dataset(repository, split):
        asked.append((repository, split))
        n = 40 if split == "train" else 20
        value = np.arange(n) % 10
        return Table({"img": Image.new("RGB", (32, 32), (int(20 * v), 0, 255)), "label": int(v)} for v in value)

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    images = open_images("cifar10:hub=true,limit=30")
    assert asked == [("uoft-cs/cifar10", "train"), ("uoft-cs/cifar10", "test")]
    assert images.pixels.shape == (36, 3, 32, 32)
    np.testing.assert_array_equal(images.pixels[:, 0, 0, 0], 20 * images.y)
    assert (images.pixels[:, 2] == 255).all()


def test_offline_the_hub_says_so_in_a_sentence(monkeypatch):
    def load_dataset(repository, split):
        raise ConnectionError("no route to host")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataError, match=r"cannot be downloaded from ylecun/mnist .*put the files under GYROSTAT_DATA"):
        open_data("mnist:hub=true")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"gyrostat\[hub\]"):
        open_data("mnist:hub=true")


def test_what_is_missing_and_where_it_goes(tmp_path, monkeypatch):
    monkeypatch.delenv("GYROSTAT_DATA", raising=False)
    with pytest.raises(DataError, match="set GYROSTAT_DATA to the folder that holds the file mnist/train-images"):
        open_data("mnist")
    monkeypatch.setenv("GYROSTAT_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"put cifar-10-batches-bin/.* there, or add hub=true"):
        open_data("cifar10")
    with pytest.raises(DataError, match=r"holds no images; cifar10, digits"):
        open_images("adding")


def test_image_data_refuses_what_does_not_fit():
    pixels, y = np.zeros((4, 1, 2, 2), np.uint8), np.zeros(4, int)
    split = {"train": np.array([0])}
    for wrong in (
        {"pixels": pixels[0]},
        {"pixels": pixels.astype(int)},
        {"y": y[:3]},
        {"y": y + 5},
        {"split": {"train": np.array([], int)}},
    ):
        with pytest.raises(DataError):
            ImageData("x", **{"pixels": pixels, "y": y, "split": split, "classes": ("a",), **wrong})


@pytest.mark.slow
def test_the_real_photographs(monkeypatch):
    if not (WHOLE.parent / "data" / "cifar10_jpeg.tar.xz").is_file():
        pytest.skip("the CIFAR-10 JPEG archive is absent")
    monkeypatch.setenv("GYROSTAT_DATA", str(WHOLE.parent / "data"))
    images = open_images("cifar10")
    assert np.bincount(images.y[:50_000]).tolist() == [5000] * 10
    # the published statistics of the training images, which JPEG changes little
    np.testing.assert_allclose(images.floats(slice(0, 5000)).mean((0, 2, 3)), [0.4914, 0.4823, 0.4465], atol=0.01)


def test_a_zip_is_an_archive_too(tmp_path):
    from gyrostat.data.archives import members

    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("a/b.wav", b"1")
        z.writestr("a/c.txt", b"2")
    assert list(members(path, lambda n: n.endswith(".wav"))) == [("a/b.wav", b"1")]
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match="not a whole"):
        list(members(path, lambda n: True))
