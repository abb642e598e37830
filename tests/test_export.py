"""The ONNX file answers as the model does, for any batch, or is not kept."""

import json
import sys

import numpy as np
import pytest

from bonelib import export, inputs, model, predict, series

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the optional extra export")
pytest.importorskip("onnxscript", reason="needs the optional extra export")


@pytest.fixture(scope="module")
def models(trained):
    """Two models of one run with unlike calibrations."""
    (net, meta), *_ = predict.load(trained.root)
    other = model.load(trained.root / "model")[0]
    return [(net, meta), (other, meta | {"temperature": 0.5, "priors": [[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]})]


@pytest.fixture(scope="module")
def pixels(trained):
    root, paths = series.unseen(trained)
    pictures = [inputs.read(root / p, trained.image_size)[0] for p in paths]
    return np.stack([p for p in pictures if p is not None])


def test_exported_file_gives_the_calibrated_probabilities_for_any_batch(models, pixels, tmp_path):
    path = tmp_path / "model" / "model.onnx"
    apart = export.onnx(models, pixels, path)
    assert apart <= export.TOLERANCE and [p.name for p in path.parent.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,), (said,) = session.get_inputs(), session.get_outputs()
    assert given.type == "tensor(uint8)" and given.shape[1:] == [1, *pixels.shape[1:]] and said.shape[1] == 3
    wanted = predict.answers(models, [(p, "") for p in pixels])[predict.PROBS].to_numpy()
    for batch in (1, 3, len(pixels)):
        out = session.run(None, {given.name: pixels[:batch, None]})[0]
        assert np.abs(out - wanted[:batch]).max() <= export.TOLERANCE
    held = session.get_modelmeta().custom_metadata_map
    assert json.loads(held["classes"]) == ["Normal", "Osteopenia", "Osteoporosis"] and "no diagnosis" in held["notice"]


def test_file_that_answers_otherwise_is_not_kept(models, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "calibrated", lambda *_: np.full((len(pixels), 3), 1 / 3))
    with pytest.raises(export.ExportError, match="allowed"):
        export.onnx(models[:1], pixels, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    with pytest.raises(export.ExportError, match="at least one"):
        export.onnx(models[:1], pixels[:0], tmp_path / "model.onnx")


def test_missing_packages_are_named(models, pixels, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(export.ExportError, match="pip install"):
        export.onnx(models[:1], pixels, tmp_path / "model.onnx")
