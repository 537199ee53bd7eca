"""Noisy Feature Mixup in a loop of your own: two lines change.

python examples/mixup_plain_loop.py --epochs 30
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

from gyrostat import NoisyFeatureMixup, robustness_curve


def digits():
    found = load_digits()
    x, y = torch.tensor(found.images / 8 - 1, dtype=torch.float32)[:, None], torch.tensor(found.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return (x[order[:1200]], y[order[:1200]]), (x[order[1200:]], y[order[1200:]])


def network():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def main(epochs):
    (x, y), test = digits()
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    nfm = NoisyFeatureMixup(model, layers=["input", "0", "1"], alpha=1.0, additive=0.4, multiplicative=0.2)
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(x)).split(64):
            output, target = nfm(x[rows], y[rows])  # was: output = model(x[rows])
            loss = target.loss(output)  # was: loss = F.cross_entropy(output, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    curve = robustness_curve(model, test, "white", levels=[0.0, 0.3, 0.6, 0.9])
    print("accuracy under white noise", dict(zip(curve.levels, [round(a, 3) for a in curve.accuracy])))
    return curve.accuracy[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=30)
    main(parser.parse_args().epochs)
