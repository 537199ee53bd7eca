"""Noisy Feature Mixup in a LightningModule: made in ``__init__``, called in ``training_step``.

pip install lightning
python examples/mixup_lightning.py --epochs 30
"""

import argparse

import lightning
import torch
from mixup_plain_loop import digits, network
from torch.utils.data import DataLoader, TensorDataset

from gyrostat import NoisyFeatureMixup


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = network()
        # no module itself: parameters and checkpoints of the classifier are the model's own
        self.nfm = NoisyFeatureMixup(self.model, layers=["input", "0", "1"])

    def training_step(self, batch, index):
        output, target = self.nfm(*batch)
        # lower than on clean data, by construction
        self.log("mixed_accuracy", target.accuracy(output))
        return target.loss(output)

    def validation_step(self, batch, index):
        x, y = batch
        self.log("accuracy", (self.model(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.model.parameters(), 1e-3)


def main(epochs):
    train, test = (TensorDataset(*part) for part in digits())
    torch.manual_seed(0)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    classifier = Classifier()
    trainer.fit(classifier, DataLoader(train, batch_size=64, shuffle=True))
    (found,) = trainer.validate(classifier, DataLoader(test, batch_size=len(test)), verbose=False)
    print(f"accuracy {found['accuracy']:.3f}")
    return found["accuracy"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=30)
    main(parser.parse_args().epochs)
