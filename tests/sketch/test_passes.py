"""An interrupted pass goes on where it stopped, and ends with the same bits."""

import numpy as np
import pytest

from gyrostat import sketched_svd, svd
from gyrostat._errors import DataError
from gyrostat.sketch.passes import Watch
from tests.sketch.matrices import polynomial


class StopAfter(Watch):
    """Asks to stop after so many blocks."""

    def __init__(self, blocks, folder):
        super().__init__(self.count, folder)
        self.left, self.seen = blocks, 0

    def count(self, _):
        self.seen += 1
        self.left -= 1
        self.stop = self.left == 0


def blocks_of(A, step=700):
    return lambda: (A[a : a + step] for a in range(0, len(A), step))


@pytest.mark.parametrize("method", ["countsketch", "gaussian", "length", "leverage"])
def test_interrupted_svd_goes_on(method, tmp_path):
    A = polynomial(5000, 40)[0]
    kind = {"leverage": A}.get(method, blocks_of(A))
    expected = svd(kind, 2, 0.25, sketch_method=method)
    whole = StopAfter(-1, tmp_path / "whole")
    svd(kind, 2, 0.25, sketch_method=method, progress=whole)
    assert not (tmp_path / "whole").exists()
    stops = 0
    while True:
        try:
            found = svd(kind, 2, 0.25, sketch_method=method, progress=StopAfter(3, tmp_path / "state"))
            break
        except KeyboardInterrupt:
            stops += 1
            assert (tmp_path / "state").exists()
    assert stops >= whole.seen // 4
    np.testing.assert_array_equal(found.s, expected.s)
    np.testing.assert_array_equal(found.U, expected.U)
    np.testing.assert_array_equal(found.bounds.replicates["right"], expected.bounds.replicates["right"])
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("options", [{"power": 1}, {"refine": 5}])
def test_power_and_refine_passes_go_on(options, tmp_path):
    A = polynomial(5000, 40)[0]
    expected = sketched_svd(blocks_of(A), 2, 100, **options)
    stops = 0
    while True:
        try:
            found = sketched_svd(blocks_of(A), 2, 100, progress=StopAfter(4, tmp_path / "state"), **options)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 3
    np.testing.assert_array_equal(found.s, expected.s)


def test_exact_pass_goes_on(tmp_path):
    A = polynomial(9000, 40)[0]
    expected, stops = svd(blocks_of(A), 2, 1e-4), 0
    assert expected.exact
    while True:
        try:
            found = svd(blocks_of(A), 2, 1e-4, progress=StopAfter(5, tmp_path / "state"))
            break
        except KeyboardInterrupt:
            stops += 1
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
