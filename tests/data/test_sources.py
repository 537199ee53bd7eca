"""Speech, archives, texts and electrocardiograms from small files made here, and from the real ones where they are."""

import gzip
import io
import sys
import zipfile

import numpy as np
import pytest
from scipy.io import wavfile

from gyrostat import open_data
from gyrostat._checks import Integer, OneOf, Real
from gyrostat._errors import DataError, MissingExtraError
from gyrostat.data.batches import Batches
from gyrostat.data.catalogue import sources
from gyrostat.data.spectra import log_mel, mel_filters, mfcc
from gyrostat.data.speech_commands import TEN, part_of
from tests.conftest import HERE, WHOLE, load_golden

rng = np.random.default_rng(0)
REAL = WHOLE.parent / "data"


@pytest.mark.parametrize(("name", "source"), sources().items(), ids=sources())
def test_every_option_has_a_rule_and_a_default_within_it(name, source):
    for option, value in source.defaults().items():
        if value != "":
            source.options[option].check(option, value, name)
    assert set(source.options) == set(source.defaults())
    page = (HERE.parent / "docs" / "data.md").read_text()
    name = name.replace("fashion-", "")  # whose options are those of mnist
    row = next((line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[1]), "")
    assert all(f"`{option}`" in row for option in source.options), f"docs/data.md does not say all options of {name}"


@pytest.mark.parametrize(
    ("name", "option", "rule"),
    [
        (name, option, rule)
        for name, source in sources().items()
        for option, rule in source.options.items()
        if isinstance(rule, (Integer, Real, OneOf))
    ],
)
def test_a_wrong_option_is_named(name, option, rule):
    first = f"{sources()[name].subject}=x," if sources()[name].subject else ""
    wrong = ["abc", "nan", "true"] + ([] if isinstance(rule, OneOf) else [str(rule.low - 1)])
    for value in wrong:
        with pytest.raises(DataError, match=f"{name}: {option} must be"):
            open_data(f"{name}:{first}{option}={value}")


def wav(samples, rate):
    buffer = io.BytesIO()
    wavfile.write(buffer, rate, samples)
    return buffer.getvalue()


def spoken(n_speakers=2, n_index=7):
    names = [f"{d}_{who}_{i}.wav" for d in range(10) for who in ("ada", "bob")[:n_speakers] for i in range(n_index)]
    return {name: rng.integers(-9000, 9000, 400 + 10 * k).astype(np.int16) for k, name in enumerate(names)}


def test_fsdd_zip_folder_and_the_hard_split(tmp_path, monkeypatch):
    waves = spoken()
    with zipfile.ZipFile(tmp_path / "fsdd_wav.zip", "w") as z:
        for name, samples in waves.items():
            z.writestr(name, wav(samples, 8000))
    monkeypatch.setenv("GYROSTAT_DATA", str(tmp_path))
    data = open_data("fsdd")
    assert data.x.shape == (140, max(map(len, waves.values())), 1)
    batch = next(Batches(data, "test", 140).epoch())
    assert len(batch.y) == 100
    first = waves["0_ada_0.wav"]
    np.testing.assert_array_equal(data.x[0, : len(first), 0], first / np.float32(32768))
    assert (data.x[0, len(first) :] == 0).all()
    hard = open_data("fsdd:speaker=bob,features=mfcc")
    assert hard.x.shape[2] == 13
    assert len(hard.split["test"]) == 70
    cut = open_data("fsdd:seconds=0.05")
    assert cut.x.shape[1] == 400
    assert cut.lengths is None
    with pytest.raises(DataError, match="one of ada, bob"):
        open_data("fsdd:speaker=eve")
    hashed = data.content_hash
    (tmp_path / "fsdd_wav.zip").unlink()
    (tmp_path / "fsdd").mkdir()
    for name, samples in waves.items():
        (tmp_path / "fsdd" / name).write_bytes(wav(samples, 8000))
    assert open_data("fsdd").content_hash == hashed
    for content, words in (
        (b"RIFFnonsense", "wav file"),
        (b"", "wav file"),
        (wav(waves["0_ada_0.wav"], 44100), "44100"),
    ):
        (tmp_path / "fsdd" / "3_bob_6.wav").write_bytes(content)
        with pytest.raises(DataError, match=words):
            open_data("fsdd")


def test_speech_commands(tmp_path, monkeypatch):
    top = tmp_path / "speech_commands"
    for word in ("yes", "no", "bed", "_background_noise_"):
        (top / word).mkdir(parents=True)
        for i in range(12):
            samples = rng.integers(-9000, 9000, 16000 - 300 * i).astype(np.int16)
            (top / word / f"{i:08x}_nohash_0.wav").write_bytes(wav(samples, 16000))
    (top / "validation_list.txt").write_text("yes/00000000_nohash_0.wav\nno/00000001_nohash_0.wav\n")
    (top / "testing_list.txt").write_text("yes/00000002_nohash_0.wav\nbed/00000003_nohash_0.wav\n")
    monkeypatch.setenv("GYROSTAT_DATA", str(tmp_path))
    everything = open_data("speech-commands")
    assert everything.classes == ("bed", "no", "yes")
    assert [len(everything.split[p]) for p in ("train", "valid", "test")] == [32, 2, 2]
    assert everything.x.shape[1:] == (16000, 1)
    released = open_data("speech-commands:words=google12,features=released")
    assert released.x.shape == (48, 126, 80)
    assert released.classes == (*TEN, "unknown", "silence")
    np.testing.assert_allclose(np.asarray(released.x).mean((1, 2)), 0, atol=1e-5)
    assert set(released.y[released.split["test"]]) == {0, 10}
    assert (released.y[released.split["train"]] == 11).sum() == 12
    # shorter clips are padded with the loudest level
    short = released.x[released.lengths is None and 0]
    assert short.shape == (126, 80)
    for name in ("validation_list.txt", "testing_list.txt"):
        (top / name).unlink()
    hashed = open_data("speech-commands:limit=3")
    assert {part_of(f"{i:08x}_nohash_0.wav") for i in range(200)} == {"train", "valid", "test"}
    assert len(hashed.x) <= 27


def test_log_mel_finds_the_tone():
    rate, hertz = 8000, 1000.0
    tone = np.sin(2 * np.pi * hertz * np.arange(rate) / rate)
    frames = log_mel(tone, rate, n_fft=256, hop=80, n_mels=40)
    assert frames.shape == (101, 40)
    filters = mel_filters(rate, 256, 40, 40, rate / 2)
    assert frames[50].argmax() == filters[:, 32].argmax()  # bin 32 of 256 is 1000 Hz
    # triangles of equal area, to within the coarse bins of the FFT
    np.testing.assert_allclose(mel_filters(rate, 8192, 40, 40, rate / 2).sum(1) * rate / 8192, 1, rtol=0.02)
    # orthonormal: all coefficients keep the energy
    np.testing.assert_allclose((mfcc(frames, 40) ** 2).sum(), (frames**2).sum())


def test_spectra_against_librosa():
    # computed with librosa 0.11 (melspectrogram with power=1, power_to_db with ref=max, mfcc) on these samples
    golden = load_golden("spectra_librosa")
    wave = np.random.default_rng(7).normal(size=3000) * np.linspace(0, 1, 3000)
    frames = log_mel(wave, 16000, n_fft=1024, hop=128, n_mels=80, power=1.0)
    np.testing.assert_allclose(frames, golden["decibel"], atol=1e-5)  # librosa's filters are float32
    np.testing.assert_allclose(mfcc(frames), golden["mfcc"], atol=1e-4)


TS = "@problemName toy\n@timeStamps false\n@univariate true\n{label}\n@data\n"


def write_ts(folder, name, label, n_train=20, n_test=10, answers=("a", "b")):
    folder.mkdir(parents=True, exist_ok=True)
    values = rng.normal(size=(n_train + n_test, 2, 7))
    lines = [
        ":".join(",".join(map(repr, channel)) for channel in case.tolist()) + f":{answers[i % len(answers)]}"
        for i, case in enumerate(values)
    ]
    head = TS.format(label=label)
    (folder / f"{name}_TRAIN.ts").write_text(head + "\n".join(lines[:n_train]))
    (folder / f"{name}_TEST.ts").write_text(head + "\n".join(lines[n_train:]))
    return values


def test_ucr(tmp_path, monkeypatch):
    monkeypatch.setenv("GYROSTAT_DATA", str(tmp_path))
    values = write_ts(tmp_path / "Toy", "Toy", "@classLabel true a b")
    data = open_data("ucr:Toy,standardize=false")
    np.testing.assert_allclose(data.x, values.transpose(0, 2, 1), rtol=1e-6)
    assert data.split["test"].tolist() == list(range(20, 30))
    assert len(data.split["valid"]) in (2, 3, 4)
    for place in (str(tmp_path / "Toy"), str(tmp_path / "Toy" / "Toy_TRAIN.ts")):
        assert open_data(f"ucr:{place},standardize=false").content_hash == data.content_hash
    from sklearn.model_selection import train_test_split

    train, rest = train_test_split(np.arange(30), test_size=0.3, random_state=1234)
    released = open_data("ucr:Toy,split=eigenworms")
    assert released.split["train"].tolist() == sorted(train)
    assert sorted([*released.split["valid"], *released.split["test"]]) == sorted(rest)
    write_ts(tmp_path / "Rate", "Rate", "@targetLabel true", answers=("61", "72", "75"))
    rate = open_data("ucr:Rate,split=heart-rate")
    assert rate.task == "regress"
    assert rate.y[:3, 0].tolist() == [61, 72, 75]
    (tmp_path / "Toy" / "Toy_TEST.ts").unlink()
    with pytest.raises(DataError, match=r"Toy_TEST.ts is missing"):
        open_data("ucr:Toy")
    for spec in ("ucr", "ucr:../Toy", "ucr:T*", "ucr:Nowhere"):
        with pytest.raises(DataError, match=r"ucr"):
            open_data(spec)


def test_the_sizes_of_the_released_splits():
    from gyrostat.data.ucr import _split

    worms = _split("eigenworms", 128, 131, None, 0)
    assert [len(worms[p]) for p in ("train", "valid", "test")] == [181, 39, 39]
    rates = _split("heart-rate", 5550, 2399, None, 0)
    assert [len(rates[p]) for p in ("train", "valid", "test")] == [5565, 1192, 1192]


def test_text(tmp_path, monkeypatch):
    monkeypatch.setenv("GYROSTAT_DATA", str(tmp_path))
    words = "the cat sat on the mat and the dog sat on the cat " * 40
    with gzip.open(tmp_path / "cat.txt.gz", "wt") as file:
        file.write(words)
    data = open_data("text:cat.txt.gz,length=20")
    assert data.task == "tag"
    assert data.classes[:2] == ("<unknown>", " ")
    spelled = "".join(data.classes[i] for i in data.x[:3].argmax(-1).ravel())
    assert spelled == words[:60]
    assert "".join(data.classes[i] for i in data.y[:3].ravel()) == words[1:61]
    assert data.split["train"][-1] < data.split["valid"][0] <= data.split["valid"][-1] < data.split["test"][0]
    few = open_data("text:cat.txt.gz,length=10,unit=words,vocabulary=4")
    assert few.classes == ("<unknown>", "the", "cat", "on")
    assert (few.x[:].sum(-1) == 1).all()
    plain = tmp_path / "plain.txt"
    plain.write_text(words)
    assert open_data(f"text:{plain},length=20").content_hash == data.content_hash
    plain.write_bytes(b"\xff\xfe\x00")
    with gzip.open(tmp_path / "cut.txt.gz", "wt") as file:
        file.write(words)
    (tmp_path / "cut.txt.gz").write_bytes((tmp_path / "cut.txt.gz").read_bytes()[:-9])
    for spec, told in (
        (f"text:{plain}", "UTF-8"),
        ("text:cut.txt.gz", "not a whole gzip"),
        ("text:cat.txt.gz,length=5000", "lower length"),
        ("text:none.txt", "none.txt"),
        ("text", "say which"),
    ):
        with pytest.raises(DataError, match=told):
            open_data(spec)


def test_tagged_words(tmp_path, monkeypatch):
    monkeypatch.setenv("GYROSTAT_DATA", str(tmp_path))
    sentence = "the\tDET\tDT\ncat\tNOUN\tNN\nsat\tVERB\tVBD\n\nthe\tDET\tDT\ndog\tNOUN\tNN\n\n"
    for part in ("train", "dev", "test"):
        with gzip.open(tmp_path / f"ud_english_ewt_{part}.tsv.gz", "wt") as file:
            file.write(sentence * 2)
    data = open_data("ud-english-ewt")
    assert data.classes == ("DET", "NOUN", "VERB")
    assert data.lengths.tolist()[:2] == [3, 2]
    assert data.y[1].tolist() == [0, 1, -100]
    assert (data.x[1, 2] == 0).all()
    assert data.features[data.x[0, 0].argmax()] == "the"


def test_ecg_needs_its_package(tmp_path, monkeypatch):
    monkeypatch.setenv("GYROSTAT_DATA", str(tmp_path))
    (tmp_path / "wfdb").mkdir()
    (tmp_path / "wfdb" / "100.hea").write_text("100 1 360 10\n")
    monkeypatch.setitem(sys.modules, "wfdb", None)
    with pytest.raises(MissingExtraError, match=r"gyrostat\[ecg\]"):
        open_data("ecg:100")


def test_ecg(monkeypatch):
    pytest.importorskip("wfdb")
    if not (REAL / "wfdb" / "100.hea").is_file():
        pytest.skip("the WFDB records are absent")
    monkeypatch.setenv("GYROSTAT_DATA", str(REAL))
    data = open_data("ecg:100,limit=20000")
    assert data.x.shape == (39, 500, 2)
    np.testing.assert_array_equal(data.x[0, 1:], data.y[0, :-1])
    beats = open_data("ecg:100,task=beats,length=200")
    assert beats.classes == ("A", "N")
    with pytest.raises(DataError, match="gap at sample 3106"):
        open_data("ecg:v102s")
    with pytest.raises(DataError, match="annotation"):
        open_data("ecg:a103l,task=beats")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("fsdd:features=mfcc,limit=7", "10 classes, train/valid/test 108/12/300"),
        ("text:kjv.txt.gz,limit=200000", "classes per step, train/valid/test"),
        ("ud-english-ewt:limit=50", "classes per step, train/valid/test 50/10/10"),
    ],
)
def test_the_real_files(monkeypatch, spec, words):
    if not REAL.is_dir():
        pytest.skip("the folder of real data is absent")
    monkeypatch.setenv("GYROSTAT_DATA", str(REAL))
    assert words in open_data(spec).describe()
