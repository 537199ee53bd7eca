"""Noisy Feature Mixup with accelerate: wrap what ``prepare`` returns.

accelerate launch examples/mixup_accelerate.py --epochs 30      # or plain python
"""

import argparse

import torch
from accelerate import Accelerator
from mixup_plain_loop import digits, network
from torch.utils.data import DataLoader, TensorDataset

from gyrostat import NoisyFeatureMixup


def main(epochs):
    accelerator = Accelerator()
    train, (x_test, y_test) = digits()
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    loader = DataLoader(TensorDataset(*train), batch_size=64, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    # the names are those of the bare model, whatever prepare has put around it; every process draws for itself
    nfm = NoisyFeatureMixup(
        model, ["input", "0", "1"], generator=torch.Generator().manual_seed(accelerator.process_index)
    )
    for _ in range(epochs):
        model.train()
        for x, y in loader:
            with accelerator.accumulate(model), accelerator.autocast():
                output, target = nfm(x, y)
                accelerator.backward(target.loss(output))
                optimizer.step()
                optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        guess = model(x_test.to(accelerator.device)).argmax(1).cpu()
    accuracy = (guess == y_test).float().mean().item()
    accelerator.print(f"accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=30)
    main(parser.parse_args().epochs)
