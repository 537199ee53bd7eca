"""No verb writes over what it reads, finds out at its end that nothing can be written, or rounds what it is told."""

import numpy as np
import pytest

from gyrostat._errors import ArgumentError
from gyrostat.cli._shared import out_file, out_folder
from gyrostat.cli.app import run


@pytest.fixture
def matrix(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).standard_normal((300, 8)))
    return tmp_path / "a.npy"


def test_an_output_is_no_input_even_with_force(matrix, capsys):
    before = matrix.read_bytes()
    assert run(["svd", str(matrix), "--rank", "2", "--out", str(matrix), "--force"]) == 2
    assert "is read by this command" in capsys.readouterr().err
    assert run(["svd", str(matrix), "--rank", "2", "--out", str(matrix.parent / "x" / ".." / "a.npy"), "--force"]) == 2
    assert matrix.read_bytes() == before


def test_two_outputs_have_two_names(matrix, capsys):
    same = str(matrix.parent / "f")
    assert run(["svd", str(matrix), "--rank", "2", "--out", same, "--report", same]) == 2
    assert "name of its own" in capsys.readouterr().err
    assert not (matrix.parent / "f").exists()


def test_where_nothing_can_be_written_is_said_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="nothing can be written"):
        out_file(tmp_path / "file" / "below" / "x.npz", False)


def test_a_file_in_a_folder_to_come(tmp_path):
    assert out_file(tmp_path / "new" / "x.npz", False) == tmp_path / "new" / "x.npz"
    assert not (tmp_path / "new").exists()


def test_a_finished_run_that_is_read_is_not_cleared(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "data.csv").write_text("1,2")
    for given in (tmp_path, f"{tmp_path / 'data.csv'}:task=regress", f"nothing,{tmp_path}"):
        with pytest.raises(ArgumentError, match="read by this command"):
            out_folder(tmp_path, True, "report.json", given)
    assert (tmp_path / "data.csv").exists()
    assert out_folder(tmp_path, True, "report.json", "digits", None) == tmp_path
    assert not (tmp_path / "data.csv").exists()


@pytest.mark.parametrize("option", ["--rank=2.7", "--rank=2 --max-size=600.5", "--rank=2 --seed=.5"])
def test_a_fraction_is_no_integer(matrix, option, capsys):
    assert run(["svd", str(matrix), *option.split()]) == 2
    told = capsys.readouterr()
    assert "into int" in told.err
    assert told.out == ""
    assert run(["svd", str(matrix), "--rank", "2.0"]) == 0
