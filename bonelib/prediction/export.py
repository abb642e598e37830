"""The run's models as one ONNX file, calibration included.

Grey images (B, 1, S, S) uint8 in, calibrated probabilities (B, K) out.
"""

import copy
import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bonelib.messages import RunError
from bonelib.prediction.answers import answer_images
from bonelib.report.report import NOTICE
from bonelib.storage import atomic_file
from bonelib.training.model import TrainedModel

# Largest difference in a probability.
TOLERANCE = 1e-4


class CalibratedEnsemble(nn.Module):
    """Images (B, 1, S, S) uint8 -> the models' mean calibrated probabilities (B, K)."""

    def __init__(self, models: list[TrainedModel]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(model.net for model in models)
        temperatures = torch.tensor([model.meta["temperature"] for model in models])
        shares = torch.tensor([model.meta["class_shares"] for model in models])  # (M, 2, K)
        self.temperatures = nn.Buffer(temperatures[:, None, None])  # (M, 1, 1)
        self.shifts = nn.Buffer((shares[:, 1:] / shares[:, :1]).log())  # (M, 1, K)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = torch.stack([net(images) for net in self.nets])  # (M, B, K)
        logs = logits.log_softmax(-1) + self.shifts
        return (logs / self.temperatures).softmax(-1).mean(0)


def to_onnx(models: list[TrainedModel], images: np.ndarray, path: Path) -> float:
    """Write `path`; returns the largest difference from `answer_images` on `images` (N, S, S).

    Class names, threshold and notice are the file's metadata. RunError, and no file, without
    images, if the difference is above 1e-4, or if an optional package is missing.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch needs it
    except ImportError as error:
        raise RunError(f"no {error.name}: pip install onnx onnxruntime onnxscript") from error
    if not len(images):
        raise RunError("no image to compare the exported model on: give at least one")
    # a GPU computes with fewer digits
    on_cpu = [dataclasses.replace(m, net=copy.deepcopy(m.net).cpu().eval()) for m in models]
    expected = answer_images(on_cpu, [(image, "") for image in images])
    expected = expected.iloc[:, : len(models[0].class_names)].to_numpy()
    program = _exported(CalibratedEnsemble(on_cpu).eval(), images.shape[1])
    facts = {key: json.dumps(models[0].meta[key]) for key in ("class_names", "threshold")}
    program.model.metadata_props.update(facts, notice=NOTICE)
    with atomic_file(path) as temporary:
        program.save(temporary)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        # batches of several sizes
        batches = np.split(images[:, None], range(1, len(images), 32))
        predicted = [session.run(None, {"images": batch})[0] for batch in batches]
        difference = float(np.abs(np.concatenate(predicted) - expected).max())
        if not difference <= TOLERANCE:
            found = f"its probabilities differ by {difference:.1g} from torch's"
            raise RunError(f"{path} was not written: {found}, allowed is {TOLERANCE:g}")
    return difference


def _exported(ensemble: CalibratedEnsemble, size: int):
    """The ONNX program, for batches of any size."""
    example = (torch.zeros(2, 1, size, size, dtype=torch.uint8),)
    names: dict = {"input_names": ["images"], "output_names": ["probabilities"]}
    shapes = ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        # the exporter warns of its own internals
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            ensemble, example, dynamo=True, dynamic_shapes=shapes, verbose=False, **names
        )
