"""The page over real HTTP: it answers, refuses in words, keeps nothing and tells nobody."""

import re
import socket
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bonelib import app, inputs, predict, series

pytest.importorskip("gradio", reason="needs the optional gradio")
pytestmark = pytest.mark.filterwarnings("ignore")  # its dependencies warn of each other

CALLS = {"Normal", "Osteopenia", "Osteoporosis", "Left to a person", "This file cannot be read"}


@pytest.fixture(scope="module")
def served(trained):
    """A page, its address, and every host that this process spoke to meanwhile."""
    hosts, connect = set(), socket.socket.connect

    def watched(self, address):
        hosts.add(address[0] if isinstance(address, tuple) else "local")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", watched)
        shown = app.serve(predict.load(trained.root), trained.root, prevent_thread_lock=True, quiet=True)
        yield shown, hosts
        shown.close()


@pytest.fixture(scope="module")
def ask(served):
    from gradio_client import Client, handle_file

    client = Client(served[0].local_url, verbose=False, analytics_enabled=False)
    yield lambda path: client.predict(handle_file(path), api_name="/ask")[0]
    client.close()


def title(html: str) -> str:
    return re.search("<h2>(.*?)</h2>", html)[1]


def kept() -> list[Path]:
    import gradio

    return list(Path(gradio.utils.get_upload_folder()).rglob("*"))


def test_radiograph_gets_the_call_probabilities_and_heat_map_of_the_table(ask, trained):
    root, paths = series.unseen(trained)
    models = predict.load(trained.root)
    told = predict.answers(models, [inputs.read(root / paths[0], trained.image_size)]).iloc[0]
    html = ask(root / paths[0])
    assert title(html) in CALLS and (title(html) == "Left to a person") == (told["call"] == predict.REFER)
    assert unescape(html).count(Path(paths[0]).name) == 1
    if not told["reason"] or told["reason"].startswith(predict.UNSURE):
        assert [f"{p:.0%}" for p in told[predict.PROBS]] == re.findall(r"<td>(\d+%)</td>", html)
        assert html.count("data:image/png;base64,") == 2


def test_text_renamed_to_png_is_told_and_does_not_break_the_next_request(ask, tmp_path, trained):
    (tmp_path / "text.png").write_text("no picture")
    html = ask(tmp_path / "text.png")
    assert title(html) == "This file cannot be read" and "holds no PNG, JPEG, TIFF, BMP or DICOM picture" in html
    root, paths = series.unseen(trained)
    assert title(ask(root / paths[1])) in CALLS


def test_picture_unlike_the_training_images_gets_no_numbers(ask, tmp_path):
    Image.fromarray(np.full((80, 80), 90, np.uint8)).save(tmp_path / "blank.png")
    html = ask(tmp_path / "blank.png")
    assert title(html) == "Left to a person" and "blank" in html and "%" not in html.split("base64")[0]


def test_names_are_shown_as_text_and_dicom_headers_not_at_all(ask, trained, tmp_path):
    pytest.importorskip("pydicom", reason="needs the optional pydicom")
    from tests.test_dicom import RAMP, made

    path = tmp_path / "<b>scan.dcm"
    path.write_bytes(made(RAMP))
    html = ask(path)
    assert title(html) in CALLS - {"This file cannot be read"} and "Doe" not in html
    assert "&lt;b&gt;scan.dcm" in app._answer(predict.load(trained.root), path)  # gradio drops such characters itself


def test_twenty_requests_leave_no_file_and_memory_flat(ask, trained):
    root, paths = series.unseen(trained)
    status = Path("/proc/self/status")

    def held() -> float:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) / 1024

    ask(root / paths[0])
    before = held() if status.exists() else 0
    for i in range(20):
        ask(root / paths[i % len(paths)])
    assert kept() == []
    assert not status.exists() or held() - before < 30  # MiB


def test_page_speaks_to_this_machine_only(served, ask, trained):
    root, paths = series.unseen(trained)
    ask(root / paths[0])
    assert served[0].share_url is None
    assert served[1] and served[1] <= {"127.0.0.1", "::1", "localhost", "local"}


def test_page_states_its_limits_and_the_figures_of_the_test_split(trained, tmp_path):
    models = predict.load(trained.root)
    bare = app._about(models * 2, tmp_path)
    assert "not evaluated" in bare and "average of 2 models" in bare and "another hospital" in bare
    held = '{"value": 0.5, "low": 0.25, "high": 0.75}'
    figures = ", ".join(f'"{name}": {held}' for name in ("accuracy", "macro_f1", "auroc"))
    (tmp_path / "metrics.json").write_text(
        f'{{"test": {{"plain": {{{figures}}}}}, "counts": {{"images": 26}}, "verdict": ["Leak: <b>"]}}'
    )
    html = app._about(models, tmp_path)
    assert "On 26 images" in html and "AUROC 0.50 (0.25 to 0.75)" in html and "Leak: &lt;b&gt;" in html
