"""The detector on trained digits: 5 references, 4 clean models and 4 with a patch."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from gyrostat import Reference, calibrate, scan, titrate
from gyrostat.testing.zoo import Recipe, images, train

pytestmark = [pytest.mark.slow, pytest.mark.telling]
TARGETS = (0, 3, 5, 7)
WHITE = {"input_shape": (1, 8, 8), "n": 200, "sigmas": (0.2, 0.4, 0.6, 0.8, 1, 1.5, 2)}
TRUTH = [0] * 4 + [1] * 4


@pytest.fixture(scope="module")
def digits():
    references, clean = ([train(Recipe(seed=s)).model for s in seeds] for seeds in (range(5), range(5, 9)))
    bad = [train(Recipe(attack="patch", seed=s)) for s in TARGETS]
    assert min(m.success for m in bad) > 0.9
    return references, clean, [m.model for m in bad]


def test_patches_stand_out_from_clean_references(digits):
    references, clean, bad = digits
    reference = calibrate(references, **WHITE)
    verdicts = [reference.score(titrate(model, **WHITE)) for model in (*clean, *bad)]
    D = np.array([v.D for v in verdicts])
    assert roc_auc_score(TRUTH, D) >= 0.9
    assert D[:4].max() < 4 < D[4:].min()
    assert sum(v.target == t for v, t in zip(verdicts[4:], TARGETS)) >= 3


def test_structured_references_find_them_too_and_survive_the_disk(digits, tmp_path):
    references, clean, bad = digits
    made = calibrate(references, method="structured", input_shape=(1, 8, 8))
    made.save(tmp_path / "r.json")
    reference = Reference.load(tmp_path / "r.json")
    assert (reference.softening, reference.settings["noise"], reference.settings["n"]) == (0.02, "mixed", 512)
    asked = {**reference.asked(), "input_shape": (1, 8, 8)}
    verdicts = [reference.score(titrate(model, **asked)) for model in (*clean, *bad)]
    assert roc_auc_score(TRUTH, [v.D for v in verdicts]) >= 0.9
    assert sum(v.target == t for v, t in zip(verdicts[4:], TARGETS)) >= 3
    assert pytest.approx(verdicts[4].D) == scan(bad[0], reference=tmp_path / "r.json").verdict.D


def test_the_valid_range_matters(digits):
    _, clean, bad = digits
    base = images("digits")[1][0][:200]

    def auc(clip):
        return roc_auc_score(TRUTH, [titrate(m, base, clip=clip).score("gated", 0.99) for m in (*clean, *bad)])

    assert auc((0, 1)) - auc(None) > 0.1
