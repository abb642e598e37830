"""The run's models as one ONNX file, all inside: grey uint8 (B, 1, S, S) in, calibrated probabilities (B, 3) out."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bonelib import card, predict
from bonelib.config import CLASSES

OPSET = 18  # that of torch's exporter, and old enough for runtimes of 2023
TOLERANCE = 1e-4  # of probabilities


class ExportError(RuntimeError):
    """A file that cannot be written, or does not answer as the model does; the message says what to do."""


class Calibrated(nn.Module):
    """What `predict.answers` does with pictures, in tensors: scale, net, class shares, temperature, average."""

    def __init__(self, models: Sequence[predict.Model]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(copy.deepcopy(net).cpu().eval() for net, _ in models)
        shares = torch.tensor([meta["priors"] for _, meta in models])  # (M, 2, 3)
        self.shifts = nn.Buffer((shares[:, 1] / shares[:, 0]).log())
        self.temperatures = [float(meta["temperature"]) for _, meta in models]

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        each = [
            ((net(pictures).log_softmax(1) + self.shifts[m]) / self.temperatures[m]).softmax(1)
            for m, net in enumerate(self.nets)
        ]
        return torch.stack(each).mean(0)


def onnx(models: Sequence[predict.Model], pixels: NDArray[np.uint8], path: Path) -> float:
    """Write `path`, and return how far its probabilities are from torch's on real pictures (N, S, S), at most.

    Raises ExportError if that is more than TOLERANCE, or if the optional packages are not there.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch needs it
    except ImportError as error:
        raise ExportError(f"{error.name} is not installed: pip install onnx onnxruntime onnxscript") from error
    if not len(pixels):
        raise ExportError("no picture to compare the exported model on: give at least one that it answers about")
    whole, aside = Calibrated(models).eval(), path.with_name(path.name + ".tmp")
    example = torch.zeros(2, 1, *pixels.shape[1:], dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, of its own insides
        program: Any = torch.onnx.export(
            whole, (example,), input_names=["pictures"], output_names=["probabilities"], opset_version=OPSET,
            dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
        )  # fmt: skip
    facts = {"classes": CLASSES, "threshold": models[0][1]["threshold"], "notice": card.NOTICE}
    program.model.metadata_props.update({k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(aside)
    session = onnxruntime.InferenceSession(aside, providers=["CPUExecutionProvider"])
    rows = np.arange(len(pixels))
    batches = np.split(rows, range(1, len(rows), 32))  # of several sizes
    said = np.concatenate([session.run(None, {"pictures": pixels[b][:, None]})[0] for b in batches])
    on_cpu = zip(whole.nets, (meta for _, meta in models), strict=True)
    wanted = np.mean([predict.calibrated(predict.logits(net, pixels, rows), meta) for net, meta in on_cpu], axis=0)
    apart = float(np.abs(said - wanted).max())
    if not apart <= TOLERANCE:
        aside.unlink()
        raise ExportError(
            f"the exported model is {apart:.1g} from torch's on {len(rows)} pictures, allowed {TOLERANCE:g}"
        )
    aside.replace(path)
    return apart
