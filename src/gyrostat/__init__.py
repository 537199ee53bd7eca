"""Deep learning as a dynamical system, as one PyTorch library.

Names resolve on first use (PEP 562): ``import gyrostat`` costs no torch import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> module below gyrostat, grouped by the folder that answers for it
_PUBLIC: dict[str, str] = {
    # errors
    "GyrostatError": "_errors",
    # data
    "ImageData": "data.images",
    "SequenceData": "data.sequences",
    "open_data": "data.catalogue",
    "open_images": "data.catalogue",
    # recurrent
    "LipschitzRNN": "recurrent.lipschitz",
    "LipschitzRNNCell": "recurrent.lipschitz",
    "NoisyRNN": "recurrent.noisy",
    "NoisyRNNCell": "recurrent.noisy",
    "AntisymmetricRNN": "recurrent.antisymmetric",
    "AntisymmetricRNNCell": "recurrent.antisymmetric",
    "ElmanRNN": "recurrent.elman",
    "ElmanRNNCell": "recurrent.elman",
    "ResidualRNN": "recurrent.elman",
    "ResidualRNNCell": "recurrent.elman",
    "OrthogonalRNN": "recurrent.orthogonal",
    "OrthogonalRNNCell": "recurrent.orthogonal",
    "LatentGeometry": "numerics.geometry",
    "VectorFieldRNN": "recurrent.vector_field",
    "VectorFieldRNNCell": "recurrent.vector_field",
    "LEM": "recurrent.lem",
    "LEMCell": "recurrent.lem",
    "Recurrent": "recurrent.layer",
    "cell_names": "recurrent.cell",
    "get_cell": "recurrent.cell",
    # sketch
    "sketched_svd": "sketch.svd",
    "svd": "sketch.svd",
    "certify": "sketch.certify",
    "bootstrap_error": "sketch.bootstrap",
    "ErrorBounds": "sketch.bootstrap",
    "SketchWarning": "sketch.warning",
    "SketchedPCA": "sketch.estimator",
    "SketchedSVD": "sketch.estimator",
    # depth
    "AffineInDepth": "numerics.modal",
    "BSpline": "numerics.basis",
    "Chebyshev": "numerics.modal",
    "ContinuousBlock": "depth.block",
    "Cosine": "numerics.modal",
    "DGLinear": "numerics.basis",
    "Fourier": "numerics.modal",
    "Hat": "numerics.basis",
    "Legendre": "numerics.modal",
    "PiecewiseConstant": "numerics.basis",
    "project": "depth.change",
    "projection_matrix": "numerics.projection",
    "refine": "depth.change",
    "set_solver": "depth.change",
    "ContinuousNet": "depth.convnet",
    "ContinuousTagger": "depth.transformer",
    "ContinuousTransformerEncoder": "depth.transformer",
    "ResNet": "depth.resnet",
    "WideContinuousNet": "depth.convnet",
    "compress": "depth.compress",
    "manifestation_report": "depth.manifest",
    "refine_optimizer": "depth.optim",
    # audit
    "Reference": "audit.reference",
    "TitrationCurve": "audit.titration",
    "Verdict": "audit.verdict",
    "calibrate": "audit.calibration",
    "load_model": "audit.load",
    "scan": "audit.scan",
    "titrate": "audit.titration",
    # what a dynamical system does, and how it stands noise
    "stability_certificate": "analysis.stability",
    "stochastic_stability_certificate": "analysis.stability",
    "verify_lmi": "analysis.lmi",
    "search_lmi": "analysis.lmi",
    "lyapunov_exponents": "analysis.lyapunov",
    "state_jacobians": "analysis.lyapunov",
    "input_jacobian": "analysis.lyapunov",
    "lem_bounds": "analysis.bounds",
    "gain_bounds": "analysis.bounds",
    "hessian_spectrum": "analysis.hessian",
    "explicit_regularizer": "analysis.regularizer",
    "margin_lower_bound": "analysis.margin",
    "MixDraw": "perturb.draw",
    "MixedTarget": "perturb.target",
    "NoisyFeatureMixup": "perturb.mixup",
    "pgd": "perturb.attack",
    "fgsm": "perturb.attack",
    "robustness_curve": "perturb.curves",
    "calibration": "perturb.calibration",
    "corrupt": "perturb.corruptions",
    "corruption_errors": "perturb.corruption_errors",
    "label_identity": "perturb.theory",
    "mixup_regularizer": "perturb.theory",
    # transfer
    "visualise_features": "transfer.visualise",
    "shape_texture": "transfer.texture",
    "robust_accuracy": "transfer.adversarial",
    "AdversarialTraining": "transfer.adversarial",
    "stratified_subsets": "transfer.curve",
    "learning_curve": "transfer.curve",
    "fine_tune": "transfer.fine_tune",
    "influence_scores": "transfer.influence",
}

__all__ = [*sorted(_PUBLIC), "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])


if TYPE_CHECKING:
    from ._errors import GyrostatError as GyrostatError
    from .analysis.bounds import gain_bounds as gain_bounds
    from .analysis.bounds import lem_bounds as lem_bounds
    from .analysis.hessian import hessian_spectrum as hessian_spectrum
    from .analysis.lmi import search_lmi as search_lmi
    from .analysis.lmi import verify_lmi as verify_lmi
    from .analysis.lyapunov import input_jacobian as input_jacobian
    from .analysis.lyapunov import lyapunov_exponents as lyapunov_exponents
    from .analysis.lyapunov import state_jacobians as state_jacobians
    from .analysis.margin import margin_lower_bound as margin_lower_bound
    from .analysis.regularizer import explicit_regularizer as explicit_regularizer
    from .analysis.stability import stability_certificate as stability_certificate
    from .analysis.stability import stochastic_stability_certificate as stochastic_stability_certificate
    from .audit.calibration import calibrate as calibrate
    from .audit.load import load_model as load_model
    from .audit.reference import Reference as Reference
    from .audit.scan import scan as scan
    from .audit.titration import TitrationCurve as TitrationCurve
    from .audit.titration import titrate as titrate
    from .audit.verdict import Verdict as Verdict
    from .data.catalogue import open_data as open_data
    from .data.catalogue import open_images as open_images
    from .data.images import ImageData as ImageData
    from .data.sequences import SequenceData as SequenceData
    from .depth.block import ContinuousBlock as ContinuousBlock
    from .depth.change import project as project
    from .depth.change import refine as refine
    from .depth.change import set_solver as set_solver
    from .depth.compress import compress as compress
    from .depth.convnet import ContinuousNet as ContinuousNet
    from .depth.convnet import WideContinuousNet as WideContinuousNet
    from .depth.manifest import manifestation_report as manifestation_report
    from .depth.optim import refine_optimizer as refine_optimizer
    from .depth.resnet import ResNet as ResNet
    from .depth.transformer import ContinuousTagger as ContinuousTagger
    from .depth.transformer import ContinuousTransformerEncoder as ContinuousTransformerEncoder
    from .numerics.basis import BSpline as BSpline
    from .numerics.basis import DGLinear as DGLinear
    from .numerics.basis import Hat as Hat
    from .numerics.basis import PiecewiseConstant as PiecewiseConstant
    from .numerics.geometry import LatentGeometry as LatentGeometry
    from .numerics.modal import AffineInDepth as AffineInDepth
    from .numerics.modal import Chebyshev as Chebyshev
    from .numerics.modal import Cosine as Cosine
    from .numerics.modal import Fourier as Fourier
    from .numerics.modal import Legendre as Legendre
    from .numerics.projection import projection_matrix as projection_matrix
    from .perturb.attack import fgsm as fgsm
    from .perturb.attack import pgd as pgd
    from .perturb.calibration import calibration as calibration
    from .perturb.corruption_errors import corruption_errors as corruption_errors
    from .perturb.corruptions import corrupt as corrupt
    from .perturb.curves import robustness_curve as robustness_curve
    from .perturb.draw import MixDraw as MixDraw
    from .perturb.mixup import NoisyFeatureMixup as NoisyFeatureMixup
    from .perturb.target import MixedTarget as MixedTarget
    from .perturb.theory import label_identity as label_identity
    from .perturb.theory import mixup_regularizer as mixup_regularizer
    from .recurrent.antisymmetric import AntisymmetricRNN as AntisymmetricRNN
    from .recurrent.antisymmetric import AntisymmetricRNNCell as AntisymmetricRNNCell
    from .recurrent.cell import cell_names as cell_names
    from .recurrent.cell import get_cell as get_cell
    from .recurrent.elman import ElmanRNN as ElmanRNN
    from .recurrent.elman import ElmanRNNCell as ElmanRNNCell
    from .recurrent.elman import ResidualRNN as ResidualRNN
    from .recurrent.elman import ResidualRNNCell as ResidualRNNCell
    from .recurrent.layer import Recurrent as Recurrent
    from .recurrent.lem import LEM as LEM
    from .recurrent.lem import LEMCell as LEMCell
    from .recurrent.lipschitz import LipschitzRNN as LipschitzRNN
    from .recurrent.lipschitz import LipschitzRNNCell as LipschitzRNNCell
    from .recurrent.noisy import NoisyRNN as NoisyRNN
    from .recurrent.noisy import NoisyRNNCell as NoisyRNNCell
    from .recurrent.orthogonal import OrthogonalRNN as OrthogonalRNN
    from .recurrent.orthogonal import OrthogonalRNNCell as OrthogonalRNNCell
    from .recurrent.vector_field import VectorFieldRNN as VectorFieldRNN
    from .recurrent.vector_field import VectorFieldRNNCell as VectorFieldRNNCell
    from .sketch.bootstrap import ErrorBounds as ErrorBounds
    from .sketch.bootstrap import bootstrap_error as bootstrap_error
    from .sketch.certify import certify as certify
    from .sketch.estimator import SketchedPCA as SketchedPCA
    from .sketch.estimator import SketchedSVD as SketchedSVD
    from .sketch.svd import sketched_svd as sketched_svd
    from .sketch.svd import svd as svd
    from .sketch.warning import SketchWarning as SketchWarning
    from .transfer.adversarial import AdversarialTraining as AdversarialTraining
    from .transfer.adversarial import robust_accuracy as robust_accuracy
    from .transfer.curve import learning_curve as learning_curve
    from .transfer.curve import stratified_subsets as stratified_subsets
    from .transfer.fine_tune import fine_tune as fine_tune
    from .transfer.influence import influence_scores as influence_scores
    from .transfer.texture import shape_texture as shape_texture
    from .transfer.visualise import visualise_features as visualise_features
