"""The five notebooks on hostile data, interrupted: one run, which the tests share."""

from __future__ import annotations

from html.parser import HTMLParser

import pandas as pd
import pytest
from PIL import Image

from tests.whole import PATIENT, STAGES, Whole, run_series

# All others are interrupted in the soak.
INTERRUPTED = ("01_explore", "03_train")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return run_series(tmp_path_factory.mktemp("whole"), INTERRUPTED)


@pytest.mark.soak
def test_ctrl_c_ends_every_notebook_at_once(tmp_path):
    whole = run_series(tmp_path)
    for stage in STAGES:
        test_ctrl_c_ends_a_notebook_at_once_and_the_rerun_finishes(whole, stage)


@pytest.mark.parametrize("stage", INTERRUPTED)
def test_ctrl_c_ends_a_notebook_at_once_and_the_rerun_finishes(whole, stage):
    code, output = whole.interrupted[stage]
    assert code == 1 and "\nKeyboardInterrupt" in output, output
    assert whole.leftovers[stage] == []
    assert len(list(whole.run.glob(STAGES[stage][2]))) == 1
    assert ("resuming after epoch 1 of" in whole.rerun[stage]) == (stage == "03_train")


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_and_card_of_hostile_data_hold_no_foreign_markup(whole):
    page = Tags((whole.run / "report.html").read_text(encoding="utf-8"))
    foreign = {"script", "iframe", "object", "embed", "link", "base", "form", "svg"}
    assert not foreign & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        names = [name for name in attributes if name.startswith("on")]
        assert not names and not {"srcdoc", "formaction"} & set(attributes), (tag, attributes)
        for name in ("src", "href"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:image/png;base64,")), (tag, attributes)
    # it was in the data, and is shown as text
    assert "onerror=alert(1)" in page.text
    card = (whole.run / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "<img" not in card and "<script" not in card


def test_no_artifact_names_a_patient(whole):
    words = [PATIENT.encode(), b"Doe^Jane", b"1950-04-07"]
    paths = [*whole.run.rglob("*"), *whole.cache.rglob("*"), *whole.folder.glob("*.*")]
    files = [path for path in paths if path.is_file()]
    assert len(files) > 40 and all(
        word in (whole.data / "metadata.csv").read_bytes() for word in words
    )
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".png":
            with Image.open(path) as image:
                content += str(image.info).encode()
        assert not [word for word in words if word in content], path


def test_patients_are_hashed_and_still_grouped(whole):
    table = pd.read_csv(whole.run / "catalog.csv", keep_default_na=False)
    sheet = pd.read_csv(whole.data / "metadata.csv").set_index("image")
    patients = sheet["patient_id"].reindex(table["path"]).to_numpy()
    assert table["patient"].str.fullmatch("[0-9a-f]{16}").all()
    assert table["patient"].duplicated().any()
    assert (pd.factorize(table["patient"])[0] == pd.factorize(patients)[0]).all()
    grouped = table[table["group"] != ""].groupby("patient")["group"]
    assert grouped.nunique().eq(1).all()
    personal = {"patient_id", "Patient Name", "birth_date", "accession"}
    assert not personal & set(table.columns) and "age" in table


def test_secret_of_the_hashes_is_for_its_owner_alone_and_not_in_the_run(whole):
    salt = whole.cache / "patient-salt"
    secret = salt.read_bytes()
    assert salt.stat().st_mode & 0o077 == 0 and len(secret) == 32
    files = [path for path in whole.run.rglob("*") if path.is_file()]
    assert not [path for path in files if secret in path.read_bytes()]
