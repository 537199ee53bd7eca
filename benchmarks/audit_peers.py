"""Other detectors on the same members of the zoo, in one run: what they need, what they find, what they cost.

    GYROSTAT_DATA=... python benchmarks/audit_peers.py --zoo zoo --family digits/plain --attacks patch blended

Neural Cleanse (Wang et al., S&P 2019), written from the paper: for every class the smallest mask and pattern that lead
clean images there, by gradients; the anomaly index of the smallest mask's L1 norm. It needs clean images and the weights.
Activation clustering (arXiv:1811.03728): two clusters of the last hidden layer's activations in every class, the best
silhouette. It needs the training set, poison included. CPU seconds are for one model, all classes; references not counted.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from audit_zoo import STAGES, family
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from torch import nn

from audit import judge
from gyrostat import calibrate
from gyrostat.testing.zoo import CLASSES, images, poison_training_set


def neural_cleanse(member, steps, per_class=32, cost=1e-2):
    """Scores ``(K,)``: how many deviations the mask of a class is smaller than the median, in units of MAD."""
    x, _ = images(member.recipe.dataset)[1]
    stream = torch.Generator().manual_seed(0)
    K, H, W = CLASSES, *x.shape[-2:]
    masks = torch.full((K, 1, 1, H, W), -1.0, requires_grad=True)
    patterns = torch.zeros(K, 1, 1, H, W, requires_grad=True)
    goals = torch.arange(K).repeat_interleave(per_class)
    optimizer = torch.optim.Adam([masks, patterns], 0.1, betas=(0.5, 0.9))
    costs, best = torch.full((K,), cost), torch.full((K,), float("inf"))
    for parameter in member.model.parameters():
        parameter.requires_grad_(False)
    for _ in range(steps):
        batch = x[torch.randint(len(x), (per_class,), generator=stream)]
        m, p = masks.sigmoid(), patterns.sigmoid()
        scores = member.model(((1 - m) * batch + m * p).reshape(-1, 1, H, W))
        size = m.flatten(1).sum(1)  # (K,)
        loss = nn.functional.cross_entropy(scores, goals, reduction="none").reshape(K, -1).mean(1)
        optimizer.zero_grad()
        (loss + costs * size).sum().backward()
        optimizer.step()
        success = (scores.argmax(1) == goals).reshape(K, -1).float().mean(1)
        best = torch.where((success >= 0.99) & (size < best), size.detach(), best)
        # the paper raises the price of the mask while the pattern works and lowers it when it fails
        costs = torch.where(success >= 0.99, costs * 1.1, costs / 1.1).clamp(1e-4, 1)
    norms = torch.where(best.isinf(), masks.sigmoid().flatten(1).sum(1).detach(), best).numpy()
    middle = np.median(norms)
    return (middle - norms) / (1.4826 * np.median(np.abs(norms - middle)) + 1e-9)


def activation_clustering(member):
    """Scores ``(K,)``: silhouette of two clusters of the training images of each class."""
    x, y = poison_training_set(member.recipe)
    with torch.no_grad():
        hidden = member.model[:-1](x).numpy()
    found = np.zeros(CLASSES)
    for c in range(CLASSES):
        of = PCA(10, random_state=0).fit_transform(hidden[y.numpy() == c])
        labels = KMeans(2, n_init=2, random_state=0).fit_predict(of)
        found[c] = silhouette_score(of, labels)
    return found


def scores(verdict):
    """Scores ``(K,)``: how far each class deviates."""
    return np.array([score for _, score in sorted(verdict.ranked)])


def compare(options):
    dataset, net = options.family.split("/")
    references, clean, bad = family(dataset, net, options.stage, options.zoo, options.attacks)
    side = 8 if dataset == "digits" else 28
    methods = {
        "neural cleanse": lambda m: neural_cleanse(m, options.steps),
        "activation clustering": activation_clustering,
    }
    for method in ("white", "structured", "combined", "inside"):
        reference = calibrate([m.model for m in references], method=method, input_shape=(1, side, side))
        methods[f"gyrostat, {method}"] = lambda m, r=reference: scores(r.score(r.ask(m.model)))
    print(f"\n{options.family}: {len(clean)} clean\n\n| detector | CPU seconds a model | {' | '.join(bad)} |")
    print("|" + "---|" * (2 + len(bad)))
    for name, method in methods.items():
        started, count = time.process_time(), len(clean[: options.models])
        below, cells = np.stack([method(m) for m in clean[: options.models]])[:, None], []
        for members in bad.values():
            members = members[: options.models]
            above = np.stack([method(m) for m in members])[:, None]
            auc, hits, tpr, *_ = judge(below, above, [m.recipe.target for m in members])
            cells.append(f"{auc:.2f} / {hits:.2f} / {tpr:.2f}")
            count += len(members)
        seconds = (time.process_time() - started) / count
        print(f"| {name} | {seconds:.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--stage", choices=STAGES, default="development")
    parser.add_argument("--family", default="digits/plain")
    parser.add_argument("--attacks", nargs="*", default=["patch", "blended"])
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    torch.set_num_threads(1)
    compare(parser.parse_args())
