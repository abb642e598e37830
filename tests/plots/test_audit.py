import numpy as np
import pandas as pd
from matplotlib.colors import same_color

from bonelib.config import CLASSES
from bonelib.plots import audit as plots
from bonelib.plots.style import MAGENTA
from tests.builders import audit_results, waves

THUMBNAILS = np.stack([waves(seed, (32, 32)) for seed in range(5)])
ROWS = pd.DataFrame({"path": [f"{CLASSES[i % 3]}/{i}.png" for i in range(5)]})
ROWS.loc[3:, "path"] = ["Normal/3.png", "Osteopenia/4.png"]


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


def test_figure_belongs_to_the_data_section_even_when_there_are_no_copies():
    figure = plots.clusters({"clusters": []}, ROWS[:0], THUMBNAILS[:0])
    assert figure.section == "data"
    assert figure._repr_png_().startswith(b"\x89PNG")
