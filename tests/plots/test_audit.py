import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color

from bonelib.config import CLASSES
from bonelib.plots import audit as plots
from bonelib.plots.style import GREY, MAGENTA
from tests.builders import audit_results, waves

EMPTY = {"clusters": [], "shortcuts": []}
THUMBNAILS = np.stack([waves(seed, (32, 32)) for seed in range(5)])
ROWS = pd.DataFrame({"path": [f"{CLASSES[i % 3]}/{i}.png" for i in range(5)]})
ROWS.loc[3:, "path"] = ["Normal/3.png", "Osteopenia/4.png"]


def test_funnel_shows_the_images_left_and_excluded_at_each_step():
    texts = [text.get_text() for text in plots.funnel(audit_results()).axes[0].texts]
    assert [text.split()[0] for text in texts] == ["9", "8", "6", "6", "5"]
    assert [text.split("(")[1].split()[0] for text in texts] == ["0", "1", "2", "0", "1"]


def test_conflicting_copies_come_first_and_are_coloured():
    figure = plots.clusters(audit_results(), ROWS, THUMBNAILS)
    first, second = (figure.axes[k * 6 : (k + 1) * 6] for k in range(2))
    assert first[0].texts[0].get_text() == "3 images\nmirrored\nresized\nconfidence 0.90"
    assert [axis.get_title() for axis in first[1:4]] == list(CLASSES)
    assert np.array_equal(first[1].images[0].get_array(), THUMBNAILS[0])
    assert np.array_equal(second[2].images[0].get_array(), THUMBNAILS[4])
    assert same_color(first[1].title.get_color(), MAGENTA)
    assert not same_color(second[1].title.get_color(), MAGENTA)


def test_number_of_clusters_that_are_not_shown_is_named():
    audit = {"clusters": audit_results()["clusters"] * 6}
    assert plots.clusters(audit, ROWS, THUMBNAILS).get_suptitle().startswith("12 clusters")
    assert "8 shown" in plots.clusters(audit, ROWS, THUMBNAILS).get_suptitle()


def test_shortcuts_with_a_warning_are_coloured():
    axis = plots.shortcuts(audit_results()).axes[0]
    points = axis.collections[1]
    assert points.get_offsets().tolist() == [[0.9, 0], [0.4, 1]]
    assert same_color(points.get_facecolors(), [MAGENTA, GREY])
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert [label.split()[0] for label in labels] == ["age", "width"]


def test_shortcut_without_an_interval_is_a_point():
    shortcut = {"name": "age", "auroc": 0.6, "low": None, "high": None, "warning": None}
    axis = plots.shortcuts({"shortcuts": [shortcut]}).axes[0]
    assert axis.collections[1].get_offsets().tolist() == [[0.6, 0]]


@pytest.mark.parametrize("name", ["clusters", "shortcuts", "funnel"])
def test_audit_figures_belong_to_the_data_section_even_when_empty(name):
    counts = dict.fromkeys(plots.FUNNEL_STEPS, 0)
    args = (ROWS[:0], THUMBNAILS[:0]) if name == "clusters" else ()
    figure = getattr(plots, name)(EMPTY | {"counts": counts}, *args)
    assert figure.section == "data"
    assert figure._repr_png_().startswith(b"\x89PNG")
