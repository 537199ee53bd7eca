"""An interrupted pass goes on where it stopped, and ends with the same bits."""

from functools import partial

import numpy as np
import pytest

from gyrostat import sketched_svd, svd
from gyrostat._errors import DataError
from tests.sketch.interrupted import StopAfter, until_done
from tests.sketch.matrices import blocks_of, polynomial


@pytest.mark.parametrize("method", ["countsketch", "gaussian", "length", "leverage"])
def test_interrupted_svd_goes_on(method, tmp_path):
    A = polynomial(5000, 40)[0]
    kind = {"leverage": A}.get(method, blocks_of(A))
    expected = svd(kind, 2, 0.25, sketch_method=method)
    whole = StopAfter(-1, tmp_path / "whole")
    svd(kind, 2, 0.25, sketch_method=method, progress=whole)
    assert not (tmp_path / "whole").exists()
    found, stops = until_done(partial(svd, kind, 2, 0.25, sketch_method=method), tmp_path / "state", 3)
    assert stops >= whole.seen // 4
    np.testing.assert_array_equal(found.s, expected.s)
    np.testing.assert_array_equal(found.U, expected.U)
    np.testing.assert_array_equal(found.bounds.replicates["right"], expected.bounds.replicates["right"])
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("options", [{"power": 1}, {"refine": 5}])
def test_power_and_refine_passes_go_on(options, tmp_path):
    A = polynomial(5000, 40)[0]
    expected = sketched_svd(blocks_of(A), 2, 100, **options)
    found, stops = until_done(partial(sketched_svd, blocks_of(A), 2, 100, **options), tmp_path / "state", 4)
    assert stops >= 3
    np.testing.assert_array_equal(found.s, expected.s)


def test_exact_pass_goes_on(tmp_path):
    A = polynomial(9000, 40)[0]
    expected = svd(blocks_of(A), 2, 1e-4)
    assert expected.exact
    found, stops = until_done(partial(svd, blocks_of(A), 2, 1e-4), tmp_path / "state", 5)
    assert stops >= 3
    np.testing.assert_array_equal(found.s, expected.s)


def test_state_of_another_matrix_is_refused_and_a_damaged_one_ignored(tmp_path):
    A = polynomial(5000, 40)[0]
    with pytest.raises(KeyboardInterrupt):
        sketched_svd(blocks_of(A), 2, 100, progress=StopAfter(3, tmp_path))
    with pytest.raises(DataError, match="another matrix"):
        sketched_svd(blocks_of(2 * A), 2, 100, resume=tmp_path)
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:500])
    found = sketched_svd(blocks_of(A), 2, 100, resume=tmp_path)
    np.testing.assert_array_equal(found.s, sketched_svd(blocks_of(A), 2, 100).s)


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    sketched_svd(polynomial(500, 10)[0], 2, 100, resume=tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]
