"""Copy memory for orthogonal recurrences and vector fields, with the protocol of the expRNN code.

Source: arXiv:1901.08428 (protocol); arXiv:2102.09589, whose own results are in no public source that we know of.
"""

from .recipe import Reference
from .training import Arm, Scale, Training

_RUN = "run with 300 steps of another implementation"


def _arm(label: str, model: str, options: dict, value: float) -> Arm:
    return Arm(label, model, options, references={"test cross-entropy": Reference(value, _RUN)})


RECIPES = [
    Training(
        "copy-orthogonal", "Orthogonal and vector-field recurrences carry ten symbols over a long blank", "2102.09589",
        note="A model without memory has 10 ln 8 / (L + 20): 0.0204 for L = 1,000 and, with five symbols, 5 ln 8 / 40 = 0.260 "
        "for L = 30. The numbers beside ours belong to five symbols, L = 30, 64 units and 300 steps, one seed.",
        data="copy:blanks=1000,n=6000", hidden_size=190, quantities=("test cross-entropy", "steps"),
        train={"batch_size": 128, "lr": 2e-4, "operator_lr": 0.1, "optimizer": "rmsprop", "epochs": 107, "max_steps": 4000,
               "clip": None, "keep": "last"},
        arms=(
            _arm("orthogonal, exp", "orthogonal", {}, 0.012),
            _arm("vector field, divergence zero", "vector_field", {"divergence": "zero", "parameterization": "hodge"}, 0.044),
            _arm("vector field, free", "vector_field", {}, 0.071),
        ),
        scales={
            "smoke": Scale("15 seconds", "copy:blanks=30,symbols=5,n=12000", 64,
                           train={"batch_size": 32, "lr": 1e-3, "epochs": 1, "max_steps": 300}),
            "small": Scale("10 minutes", "copy:blanks=100,n=20000", 128,
                           train={"batch_size": 64, "lr": 5e-4, "epochs": 5, "max_steps": 1000}),
            "paper": Scale("days"),
        },
    ),
]  # fmt: skip
