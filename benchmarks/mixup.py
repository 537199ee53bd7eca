"""What Noisy Feature Mixup and PGD cost, as ratios of interleaved medians in one process.

    python benchmarks/mixup.py [--repeats 7] [--batch 64] [--channels 16]

A training step of a ResNet-20 on images of 32 pixels with: nothing, input mixup by hand (a flip and soft targets, as image
libraries do it), and ours. PGD beside the forward and backward passes that it cannot do without.
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from gyrostat import NoisyFeatureMixup, ResNet, pgd


def interleaved(acts, repeats):
    """Seconds of each act, one list per act; the order turns, so that a drift meets all of them."""
    names, times = list(acts), {name: [] for name in acts}
    for name in names:
        acts[name]()
    for i in range(repeats):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            started = time.perf_counter()
            acts[name]()
            times[name].append(time.perf_counter() - started)
    return times


def table(times, base):
    print(f"\n| | / {base} | ms |\n|---|---|---|")
    for name, found in times.items():
        share = statistics.median(a / b for a, b in zip(found, times[base]))
        print(f"| {name} | {share:.3f} | {1e3 * statistics.median(found):.1f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--channels", type=int, default=16, help="of the first stage; 64 in ResNet-18")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    x, y = torch.rand(options.batch, 3, 32, 32), torch.randint(10, (options.batch,))
    model = ResNet(20, channels=options.channels)
    last = [str(name) for name, _ in model.named_modules() if name.count(".") == 1 and "units" in name]
    stages = [last[len(last) // 3 - 1], last[2 * len(last) // 3 - 1]]
    optimizer = torch.optim.SGD(model.parameters(), 0.0)

    def step(output_and_loss):
        def act():
            model.train()
            optimizer.zero_grad()
            output_and_loss().backward()
            optimizer.step()

        return act

    def by_hand():
        lam = torch.distributions.Beta(1.0, 1.0).sample()
        soft = F.one_hot(y, 10).float()
        return F.cross_entropy(model(x * lam + x.flip(0) * (1 - lam)), soft * lam + soft.flip(0) * (1 - lam))

    def ours(layers, **settings):
        nfm = NoisyFeatureMixup(model, layers, **settings)

        def act():
            output, target = nfm(x, y)
            return target.loss(output)

        return act

    quiet = {"additive": 0.0, "multiplicative": 0.0}
    acts = {
        "plain": lambda: F.cross_entropy(model(x), y),
        "input mixup by hand": by_hand,
        "ours, input mixup": ours(["input"], **quiet),
        "ours, manifold mixup": ours(["input", *stages], **quiet),
        "ours, NFM": ours(["input", *stages]),
    }
    print(f"ResNet-20, {options.channels} channels, batch {options.batch}, layers input, {', '.join(stages)}")
    table(interleaved({name: step(act) for name, act in acts.items()}, options.repeats), "plain")

    steps = 5

    def bare():
        at = x
        model.eval()
        for _ in range(steps):
            at = at.detach().requires_grad_()
            (g,) = torch.autograd.grad(F.cross_entropy(model(at), y, reduction="sum"), at)
            at = at + 0 * g
        model.train()

    attacks = {
        "passes alone": bare,
        "pgd l2, last": lambda: pgd(model, x, y, norm="l2", eps=0.5, steps=steps, best=False),
        "pgd linf, last": lambda: pgd(model, x, y, norm="linf", eps=0.03, steps=steps, best=False),
        "pgd linf, best (one pass more)": lambda: pgd(model, x, y, norm="linf", eps=0.03, steps=steps),
    }
    try:
        import foolbox
    except ImportError:
        pass
    else:
        attack = foolbox.attacks.LinfPGD(abs_stepsize=0.015, steps=steps, random_start=False)

        def peer():
            model.eval()
            attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=0.03)

        attacks["foolbox linf"] = peer
    table(interleaved(attacks, options.repeats), "passes alone")


if __name__ == "__main__":
    main()
