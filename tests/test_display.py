"""What a notebook shows is kept for the report, and a script prints it."""

from __future__ import annotations

import sys
import types

import IPython.display
import pandas as pd
import pytest
from PIL import Image

from bonelib import display
from bonelib.config import CLASSES
from bonelib.messages import Finding
from bonelib.plots.training import class_counts


@pytest.fixture
def script(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))


def test_shown_figure_is_kept_in_the_run_folder_and_displayed_by_a_notebook(
    cfg, notebook, monkeypatch
):
    figure, displayed = class_counts(pd.DataFrame({"label": CLASSES}), CLASSES), []
    monkeypatch.setattr("IPython.display.display", displayed.append)
    display.show(figure, cfg, "counts")
    assert displayed == [figure]
    with Image.open(cfg.root / "figures" / "counts.png") as image:
        assert image.info["section"] == figure.section and min(image.size) > 100


def test_sentences_are_printed_by_a_script_and_shown_by_a_notebook(script, capsys, monkeypatch):
    display.sentences(f"image {number}" for number in (1, 2))
    assert capsys.readouterr().out == "- image 1\n- image 2\n"
    shown = []
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setattr(IPython.display, "display", shown.append)
    display.sentences(["image 1", "image 2"])
    assert [text.data for text in shown] == ["- image 1\n- image 2"]
    assert capsys.readouterr().out == ""


def test_findings_come_alarms_first_each_once_from_objects_and_json(script, capsys):
    note, alarm = Finding("note", "few images"), {"level": "alarm", "text": "a leak"}
    display.findings([note, alarm, Finding(**alarm)], "nothing")
    assert capsys.readouterr().out == "- **Alarm:** a leak\n- **Note:** few images\n"
    display.findings([], "nothing")
    assert capsys.readouterr().out == "- nothing\n"


def test_live_plot_redraws_one_output_below_the_cell(notebook, monkeypatch):
    shown = []
    handle = types.SimpleNamespace(update=shown.append)
    monkeypatch.setattr(IPython.display, "display", lambda first, display_id: handle)
    redraw = display.live_plot(lambda table: f"figure of {len(table)} epochs")
    for length in (1, 2):
        redraw(pd.DataFrame({"epoch": range(length)}))
    assert shown == ["figure of 1 epochs", "figure of 2 epochs"]


def test_there_is_no_live_plot_in_a_script(script):
    assert display.live_plot(lambda table: None) is None
