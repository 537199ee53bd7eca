"""The experiments of Stateful ODE-Nets, with the settings of its released code.

Source: arXiv:2106.10820. Published numbers: the table of the released code's page.
"""

from .depth_training import Arm, DepthTraining, Scale
from .recipe import Reference

_PAGE = "page of the released code"
_SMALL = {"channels": 8, "segments": 2}

_SHORT = {"lr": 0.05, "batch_size": 64, "decay_at": (8,)}

RECIPES = [
    DepthTraining(
        "stateful-compression", "A trained network loses half of its weights and half of its steps without retraining",
        "2106.10820", data="cifar10", units=16,
        note="The published runs shift and mirror the training images, ours do not; they report the best test epoch, ours "
        "the last. Compression touches no data: weights and running statistics are projected over depth.",
        train={"epochs": 180, "batch_size": 128, "lr": 0.1, "decay_at": (80, 120, 160), "optimizer": "sgd", "momentum": 0.9,
               "weight_decay": 5e-4, "clip": None, "keep": "last"},
        quantities=("test accuracy", "test accuracy, K / 2", "test accuracy, K / 2 and N / 2", "parameters"),
        arms=(
            Arm("Euler, grown from one unit",
                {"solver": "euler", "channels": 16, "segments": 3, "variant": "stateful", "scale": 1.0}, (20, 40, 70, 90),
                {}, {"test accuracy": Reference(0.927, _PAGE), "test accuracy, K / 2": Reference(0.927, _PAGE),
                     "test accuracy, K / 2 and N / 2": Reference(0.920, _PAGE)}),
            Arm("Euler from the start",
                {"solver": "euler", "channels": 16, "segments": 3, "variant": "stateful", "scale": "units"}, (),
                {}, {"test accuracy": Reference(0.9369, _PAGE)}),
        ),
        scales={
            "smoke": Scale("30 seconds", "digits", 4, 9, {**_SMALL, "channels": 6}, _SHORT),
            "small": Scale("5 minutes", "fashion-mnist:limit=3000", 8, 9, _SMALL, _SHORT),
            "paper": Scale("weeks; a day on a GPU"),
        },
    ),
    DepthTraining(
        "stateful-tagger", "A part-of-speech tagger grown to 64 layers loses half of them without retraining", "2106.10820",
        data="ud-english-ewt:tags=xpos,max_length=102", units=64,
        note="The paper trains on the treebanks GUM and HDT and reports curves; here it is English EWT. Padding is masked and "
        "the root of a sentence is not counted; the learning rate is the paper's largest one, without its warm-up.",
        train={"epochs": 255, "batch_size": 64, "lr": 1.118e-3, "optimizer": "adamw", "weight_decay": 0.1, "clip": None,
               "keep": "last"},
        quantities=("test accuracy", "test accuracy, K / 2", "test accuracy, N / 2", "test accuracy, K / 2 and N / 2",
                    "parameters"),
        arms=(
            Arm("Euler, grown from one layer", {"solver": "euler", "embed_dim": 128, "num_heads": 1, "scale": 1.0},
                (6, 11, 16, 21, 26, 31)),
            Arm("Euler from the start", {"solver": "euler", "embed_dim": 128, "num_heads": 1, "scale": 1.0}),
        ),
        scales={
            "smoke": Scale("2 minutes", "ud-english-ewt:limit=1000,max_length=40", 4, 6, {"embed_dim": 32},
                           {"lr": 2e-3, "batch_size": 32}),
            "paper": Scale("weeks; a day on a GPU"),
        },
    ),
]  # fmt: skip
