"""Noisy Feature Mixup and its special cases, small and real: digits with a CNN, two circles with a perceptron.

python benchmarks/mixup_runs.py digits --seeds 3      # a table, and what differs by how much; about a minute on one core
python benchmarks/mixup_runs.py circles --seeds 5 --picture docs/images/mixup_boundary.png
"""

import argparse
import statistics

import torch
from torch import nn

from gyrostat import NoisyFeatureMixup, calibration, corruption_errors, robustness_curve
from gyrostat.transfer.adversarial import robust_accuracy

# name in the tables, method, settings that differ from the method's own
METHODS = {
    "baseline": ("baseline", {}),
    "noise only": ("noise", {}),
    "mixup": ("mixup", {}),
    "manifold mixup": ("manifold", {}),
    "noisy mixup (0.2, 0.1)": ("noisy-mixup", {}),  # as published; the next row has the noise of NFM
    "noisy mixup (0.4, 0.2)": ("noisy-mixup", {"additive": 0.4, "multiplicative": 0.2}),
    "NFM (0.4, 0.2)": ("nfm", {}),
    "NFM (1.0, 0.5)": ("nfm", {"additive": 1.0, "multiplicative": 0.5}),
}
MEAN, STD = 0.3, 0.37


def digits(train=500):
    """Standardised images in a fixed random order: the first 500 to train on, the last 997 to test on."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0)).numpy()
    x = torch.tensor((found.images[order] / 16 - MEAN) / STD, dtype=torch.float32)[:, None]
    y = torch.tensor(found.target[order])
    return (x[:train], y[:train]), (x[-997:], y[-997:])


def fashion(train=4000, test=1000):
    """The first images of Fashion-MNIST's own parts, standardised with the same two numbers."""
    from gyrostat.data.catalogue import open_data

    data = open_data("fashion-mnist:layout=rows")

    def part(rows):
        x = torch.as_tensor(data.x[rows], dtype=torch.float32)[:, None]
        return (x - MEAN) / STD, torch.as_tensor(data.y[rows])

    return part(data.split["train"][:train]), part(data.split["test"][:test])


class ConvNet(nn.Module):
    """Three stages of convolution, batch normalisation and ReLU, each half as wide as the last; mean over places; head."""

    def __init__(self):
        super().__init__()
        for i, (c, out) in enumerate(((1, 16), (16, 32), (32, 64)), 1):
            convolution = nn.Conv2d(c, out, 3, min(i, 2), 1, bias=False)
            self.add_module(f"stage{i}", nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU()))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.stage3(self.stage2(self.stage1(x))).mean((2, 3)))


def train_images(data, method, settings, seed, epochs=60):
    x, y = data
    torch.manual_seed(seed)
    model = ConvNet()
    nfm = NoisyFeatureMixup.named(
        method, model, ["input", "stage1", "stage2"], generator=torch.Generator().manual_seed(seed), **settings
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs // 2, 3 * epochs // 4])
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=order).split(100):
            output, target = nfm(x[rows], y[rows])
            optimizer.zero_grad()
            target.loss(output).backward()
            optimizer.step()
        schedule.step()
    nfm.close()
    return model.eval()


def measure(model, test):
    """Clean accuracy, under white noise (standardised units), salt and pepper, PGD (pixel units), and ECE."""
    low, high = -MEAN / STD, (1 - MEAN) / STD
    white = robustness_curve(model, test, "white", levels=[0.0, 0.3, 0.6, 0.9, 1.2], repeats=3)
    salt = robustness_curve(model, test, "salt_pepper", levels=[0.05, 0.1, 0.2], repeats=3, bounds=(low, high))
    row = {"clean": white.accuracy[0]}
    row |= {f"white {s:g}": a for s, a in zip(white.levels[1:], white.accuracy[1:])}
    row |= {f"s&p {s:g}": a for s, a in zip(salt.levels, salt.accuracy)}
    pixels = ((test[0] * STD + MEAN).clamp(0, 1), test[1])
    inside = lambda x: model((x - MEAN) / STD)  # noqa: E731
    for eps in (0.05, 0.1):
        row[f"PGD {eps:g}"] = robust_accuracy(inside, pixels, norm="linf", eps=eps, steps=20, batch_size=500)
    with torch.no_grad():
        row["ECE"] = calibration(model(test[0]).softmax(1), test[1]).ece
    return row


def circles(seed):
    from sklearn.datasets import make_circles

    def draw(n, state):
        x, y = make_circles(n, noise=0.3, factor=0.4, random_state=state)
        return torch.tensor(x, dtype=torch.float32), torch.tensor(y)

    return draw(40, seed), draw(2000, 1000 + seed)


def train_circles(method, settings, seed, steps=1200):
    (x, y), _ = circles(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
    )
    nfm = NoisyFeatureMixup.named(
        method, model, ["input", "1", "3"], generator=torch.Generator().manual_seed(seed), **settings
    )
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        output, target = nfm(x, y)
        optimizer.zero_grad()
        target.loss(output).backward()
        optimizer.step()
    nfm.close()
    return model.eval()


def slopes(model, side=81):
    """Probability of class 1 on a grid of [-2, 2]², root mean square and maximum of its gradient."""
    axis = torch.linspace(-2, 2, side)
    at = torch.cartesian_prod(axis, axis).requires_grad_()
    p = model(at).softmax(1)[:, 1]
    size = torch.autograd.grad(p.sum(), at)[0].norm(dim=1)
    return p.detach().view(side, side), float(size.pow(2).mean().sqrt()), float(size.max())


def table(rows):
    names = list(next(iter(rows.values())))
    print("| | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for label, row in rows.items():
        print(f"| {label} | " + " | ".join(f"{row[k]:.3f}" for k in names) + " |")


def mean_rows(rows):
    return {k: statistics.fmean(r[k] for r in rows) for k in rows[0]}


def differences(runs, one=None, other=None):
    """Points between two methods trained from the same seeds, with the standard error of the mean over the seeds."""
    names = list(runs["baseline"][0])
    print("\n| points | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for label, rows in runs.items():
        a, b = runs[one] if one else rows, runs[other] if other else rows
        if a is b:
            continue
        cells = []
        for k in names:
            gaps = [100 * (x[k] - y[k]) for x, y in zip(a, b)]
            cells.append(f"{statistics.fmean(gaps):+.1f} ± {statistics.stdev(gaps) / len(gaps) ** 0.5:.1f}")
        print(f"| {f'{one} minus {label}' if one else f'{label} minus {other}'} | " + " | ".join(cells) + " |")


def run_circles(seeds, picture):
    rows, pictures = {}, {}
    for label, (method, settings) in METHODS.items():
        found = []
        for seed in range(seeds):
            model = train_circles(method, settings, seed)
            x, y = circles(seed)[1]
            p, rms, largest = slopes(model)
            found.append(
                {"accuracy": (model(x).argmax(1) == y).float().mean().item(), "rms slope": rms, "max slope": largest}
            )
            pictures.setdefault(label, p)
        rows[label] = mean_rows(found)
    table(rows)
    if picture:
        from gyrostat.report.figures import new_figure

        figure, axes = new_figure(2, 4, width=9.0, height=4.8)
        figure.set_facecolor("white")
        (x, y), _ = circles(0)
        for ax, (label, p) in zip(axes, pictures.items()):
            ax.contourf(*[torch.linspace(-2, 2, 81)] * 2, p.T, levels=20, cmap="RdBu_r", vmin=0, vmax=1, alpha=0.8)
            ax.scatter(*x.T, c=["#9ecbff" if label == 0 else "#ffb199" for label in y.tolist()], edgecolor="k", s=18)
            ax.set(title=label, xticks=[], yticks=[])
        axes[-1].axis("off")
        figure.savefig(picture, dpi=110)


def run_images(what, seeds):
    train, test = digits() if what == "digits" else fashion()
    rows, corrupted, runs = {}, {}, {}
    for label, (method, settings) in METHODS.items():
        found = runs[label] = []
        for seed in range(seeds):
            model = train_images(train, method, settings, seed, 60 if what == "digits" else 12)
            found.append(measure(model, test))
            if what == "fashion" and seed == 0:
                pixels = ((test[0] * STD + MEAN).clamp(0, 1), test[1])
                corrupted[label] = corruption_errors(lambda x, model=model: model((x - MEAN) / STD), pixels)
        rows[label] = mean_rows(found)
        if label in corrupted:
            rows[label]["corruptions"] = 1 - corrupted[label].mean_error
            rows[label]["mCE"] = corrupted[label].mce(corrupted["baseline"])
    table(rows)
    if seeds > 1:
        differences(runs, other="baseline")
        differences(runs, one="NFM (0.4, 0.2)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["digits", "fashion", "circles"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--picture")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "circles":
        run_circles(options.seeds, options.picture)
    else:
        run_images(options.what, options.seeds)


if __name__ == "__main__":
    main()
