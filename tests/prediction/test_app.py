"""The page over real HTTP: it predicts, says why it does not, and keeps no upload."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bonelib.config import CLASSES
from bonelib.data.quality import read_for_model
from bonelib.evaluation.findings import format_interval
from bonelib.evaluation.predict import probability_columns
from bonelib.prediction import app
from bonelib.prediction.answers import answer_images
from bonelib.storage import read_json, write_json
from tests.builders import calibrated_run, dicom_file, finished_run, waves

pytest.importorskip("gradio", reason="needs the optional gradio")
# its dependencies warn of each other
pytestmark = pytest.mark.filterwarnings("ignore")

HEADINGS = {*CLASSES, "Refer to a person"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return calibrated_run(tmp_path_factory.mktemp("app"), threshold=0.5)


@pytest.fixture(scope="module")
def served(models, tmp_path_factory):
    """A page, and every host that this process connected to meanwhile."""
    hosts, connect = set(), socket.socket.connect

    def watched(self, address):
        hosts.add(address[0] if isinstance(address, tuple) else "local")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", watched)
        run = tmp_path_factory.mktemp("empty")
        page = app.serve(models, run, prevent_thread_lock=True, quiet=True)
        yield page, hosts
        page.close()


@pytest.fixture(scope="module")
def ask(served):
    """Markdown, probabilities by class (or none), image and heat map (None or files)."""
    from gradio_client import Client, handle_file

    client = Client(served[0].local_url, verbose=False, analytics_enabled=False)

    def answers(path):
        text, label, image, heat, upload = client.predict(handle_file(path), api_name="/answer")
        assert upload is None
        confidences = {
            one["label"]: one["confidence"] for one in (label or {}).get("confidences", [])
        }
        return text, confidences, image, heat

    yield answers
    client.close()


def heading(text: str) -> str:
    return re.match("## (.*)\n", text)[1]


def saved(folder: Path, pixels: np.ndarray, name: str = "image.png") -> Path:
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def test_page_shows_the_prediction_and_probabilities_of_the_table(ask, models, tmp_path):
    for seed in range(4):
        path = saved(tmp_path, waves(seed), f"{seed}.png")
        row = answer_images(models, [read_for_model(path, 48)]).iloc[0]
        text, confidences, *_ = ask(path)
        expected = {"refer": "Refer to a person"}.get(row["prediction"], row["prediction"])
        assert heading(text) == expected and f"{seed}\\.png" in text
        probabilities = [confidences[name] for name in CLASSES]
        assert np.allclose(probabilities, row[probability_columns(CLASSES)].to_list(), atol=1e-6)


def test_page_shows_the_image_as_the_model_sees_it_and_a_heat_map_over_it(
    ask, tmp_path, monkeypatch
):
    heat = np.zeros((1, 48, 48), np.float32)
    heat[:, :, 24:] = 1
    monkeypatch.setattr(app.gradcam, "heatmaps", lambda net, images, classes: heat)
    path = saved(tmp_path, waves(1, (60, 60)))
    _, _, *files = ask(path)
    shown, blended = (np.asarray(Image.open(file).convert("RGB"), int) for file in files)
    expected = read_for_model(path, 48)[0][..., None].astype(int)
    assert shown.shape == blended.shape == (48, 48, 3)
    assert (shown == expected).all()
    assert (blended == expected)[:, :24].all(), "no colour without heat"
    hottest = 0.45 * expected + 0.55 * np.array([252, 253, 191])
    assert np.abs(blended - hottest)[:, 24:].max() < 2


def test_unreadable_file_is_reported_and_does_not_break_the_next_request(ask, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    text, *rest = ask(tmp_path / "text.png")
    assert heading(text) == "Refer to a person" and "unreadable" in text
    assert rest == [{}, None, None]
    assert ask(saved(tmp_path, waves(2)))[1]


def test_image_unlike_the_training_images_gets_no_probabilities(ask, tmp_path):
    text, confidences, image, heat = ask(saved(tmp_path, np.full((80, 80), 90, np.uint8)))
    assert heading(text) == "Refer to a person" and "blank" in text
    assert not confidences and heat is None and image


def test_file_names_have_no_effect_in_markdown_and_dicom_headers_are_not_shown(models, tmp_path):
    path = tmp_path / "<b>![a](b) scan.dcm"
    path.write_bytes(dicom_file())
    text, *rest = app.answer_file(models, path)
    assert heading(text) in HEADINGS and "Doe" not in text and "4711" not in text
    assert r"\<b\>\!\[a\]\(b\) scan\.dcm" in text and rest[1] is not None


def test_no_upload_is_kept_after_its_answer(ask, tmp_path):
    path = saved(tmp_path, waves(3), "patient.png")
    for _ in range(20):
        ask(path)
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    assert folder.is_dir() and folder != Path("/tmp/gradio")
    content = path.read_bytes()
    kept = [file for file in folder.rglob("*") if file.is_file()]
    assert not [file for file in kept if "patient" in file.name or file.read_bytes() == content]


def test_page_connects_to_this_machine_only(served, ask, tmp_path):
    ask(saved(tmp_path, waves(4)))
    page, hosts = served
    assert page.share_url is None
    assert hosts and hosts <= {"127.0.0.1", "::1", "localhost", "local"}


def test_backbone_without_a_feature_map_gets_probabilities_and_no_heat_map(tmp_path):
    models = calibrated_run(tmp_path, size=160, backbone="test_vit")
    text, probabilities, image, heat = app.answer_file(models, saved(tmp_path, waves(5)))
    assert "feature map" in text and image is not None and heat is None
    assert sum(probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize("names", [("Normal", "Osteoporosis"), tuple("01234")])
def test_page_shows_any_number_of_classes(tmp_path, names):
    models = calibrated_run(tmp_path, names)
    text, probabilities, image, heat = app.answer_file(models, saved(tmp_path, waves(5)))
    assert list(probabilities) == list(names) and heading(text) in names
    assert heat.shape == (*image.shape, 3)


def test_page_states_its_limits_and_findings_and_the_results_of_these_models_only(tmp_path):
    bare = app.describe_run(tmp_path)
    assert "not evaluated" in bare and "another hospital" in bare
    run = finished_run(tmp_path)
    metrics = read_json(run / "metrics.json")
    findings = {"findings": [{"level": "alarm", "text": "Leak: <b>"}]}
    write_json(run / "metrics.json", metrics | findings)
    text = app.describe_run(run)
    auroc = format_interval(metrics["test"]["plain"]["auroc"])
    assert f"{metrics['counts']['images']} test images" in text and f"AUROC {auroc}" in text
    assert r"Leak\: \<b\>" in text and "not evaluated" not in text
    (run / "model" / "model.safetensors").write_bytes(b"more epochs")
    text = app.describe_run(run)
    assert "not evaluated" in text and "test images" not in text
    # what the audit found is true of any model
    assert "Leak" not in text and "age alone predicts" in text
