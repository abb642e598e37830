"""The ONNX file predicts as the models do, for batches of any size, or is not kept."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from bonelib.messages import RunError
from bonelib.prediction import export
from bonelib.prediction.answers import answer_images
from tests.builders import FAMILIES, calibrated_run

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the optional extra export")
pytest.importorskip("onnxscript", reason="needs the optional extra export")

IMAGES = np.random.default_rng(0).integers(0, 255, (35, 48, 48), dtype=np.uint8)
NAMES = ["Low", "Middle", "High", "Highest"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of four classes with different weights and calibrations."""
    folder = tmp_path_factory.mktemp("export")
    first = calibrated_run(folder / "a", NAMES, threshold=0.6)
    shares = [[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.1, 0.6]]
    return first + calibrated_run(folder / "b", NAMES, 1, temperature=0.5, class_shares=shares)


def test_exported_file_gives_the_calibrated_probabilities_for_any_batch(models, tmp_path):
    path = tmp_path / "model" / "model.onnx"
    difference = export.to_onnx(models, IMAGES, path)
    assert difference <= export.TOLERANCE
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (images,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert images.type == "tensor(uint8)" and images.shape[1:] == [1, 48, 48]
    assert probabilities.shape[1] == 4
    expected = answer_images(models, [(image, "") for image in IMAGES]).iloc[:, :4].to_numpy()
    for batch in (1, 3, len(IMAGES)):
        predicted = session.run(None, {images.name: IMAGES[:batch, None]})[0]
        assert np.abs(predicted - expected[:batch]).max() <= export.TOLERANCE
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == NAMES and json.loads(facts["threshold"]) == 0.6
    assert "no diagnosis" in facts["notice"]


@pytest.mark.parametrize(
    "backbone",
    ["test_vit", *(pytest.param(b, marks=pytest.mark.soak) for b in FAMILIES if b != "test_vit")],
)
def test_other_families_of_backbones_predict_and_are_exported(backbone, tmp_path):
    loaded = calibrated_run(tmp_path, NAMES, size=64, backbone=backbone)
    images = np.random.default_rng(0).integers(0, 255, (3, 64, 64), dtype=np.uint8)
    table = answer_images(loaded, [(image, "") for image in images])
    assert table.iloc[:, :4].to_numpy().std(axis=0).max() > 1e-3
    assert export.to_onnx(loaded, images, tmp_path / "model.onnx") <= export.TOLERANCE


def test_file_with_other_probabilities_is_not_kept(models, tmp_path, monkeypatch):
    def wrong(models, images):
        table = answer_images(models, images)
        table.iloc[-1, :2] += np.array([0.001, -0.001])
        return table

    monkeypatch.setattr(export, "answer_images", wrong)
    (tmp_path / "model.onnx").write_text("an earlier one")
    with pytest.raises(RunError, match=r"model\.onnx"):
        export.to_onnx(models[:1], IMAGES, tmp_path / "model.onnx")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["an earlier one"]


def test_export_without_an_image_to_compare_on_is_rejected(models, tmp_path):
    with pytest.raises(RunError, match="at least one"):
        export.to_onnx(models[:1], IMAGES[:0], tmp_path / "model.onnx")


def test_missing_packages_are_named(models, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RunError, match="pip install"):
        export.to_onnx(models[:1], IMAGES, tmp_path / "model.onnx")
