import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color

from bonelib.config import CLASSES
from bonelib.plots import training as plots
from bonelib.plots.style import class_colours, overlay_heat
from tests.builders import waves

NAMES = ("healthy", "frail", "broken", "very $ill$")
IMAGES = np.stack([waves(seed, (16, 16)) for seed in range(5)])
HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "lr": [1e-3, 5e-4, 1e-3],
        "train_loss": [1, 0.8, 0.7],
        "val_loss": [1.1, 0.9, 1.0],
        "train_accuracy": [0.4, 0.6, 0.7],
        "val_accuracy": [0.4, 0.6, 0.6],
    }
)


def bars(figure):
    """{class: heights of its bars} and the names of the clusters."""
    axis = figure.axes[0]
    heights = {c.get_label(): [bar.get_height() for bar in c] for c in axis.containers}
    return heights, [label.get_text() for label in axis.get_xticklabels()]


@pytest.mark.parametrize("names", [NAMES[:2], CLASSES, NAMES])
def test_bars_of_each_split_show_the_images_of_each_class(names):
    labels = [name for number, name in enumerate(names) for _ in range(number + 1)]
    table = pd.concat([pd.DataFrame({"label": labels, "split": s}) for s in ("test", "train")])
    heights, clusters = bars(plots.class_counts(table, names, "split", "Title"))
    assert clusters == ["train", "test"]
    assert heights == {name: [number + 1] * 2 for number, name in enumerate(names)}
    alone, _ = bars(plots.class_counts(table, names))
    assert alone == {name: [2 * (number + 1)] for number, name in enumerate(names)}


def test_class_without_images_has_an_empty_bar():
    table = pd.DataFrame({"label": ["healthy", "broken"]})
    assert bars(plots.class_counts(table, NAMES[:3]))[0] == {
        "healthy": [1],
        "frail": [0],
        "broken": [1],
    }


def test_history_marks_the_epoch_that_is_kept():
    axis = plots.history(HISTORY).axes[0]
    marked = [line.get_xdata()[0] for line in axis.lines if line.get_label().startswith("best")]
    # epochs 2 and 3 have the same accuracy, and 2 the lower loss
    assert marked == [2]
    assert plots.history(HISTORY.head(1)).section == "training"


def test_image_grid_shows_every_image_with_caption_frame_and_heat_map():
    frames = [*class_colours(NAMES).values(), "black"]
    figure = plots.image_grid(IMAGES, list("abcde"), frames, title="Samples", maps=IMAGES / 255)
    used = figure.axes[:5]
    assert [axis.get_title(loc="left") for axis in used] == list("abcde")
    for axis, image, frame in zip(used, IMAGES, frames, strict=True):
        assert np.array_equal(axis.images[0].get_array(), overlay_heat(image, image / 255))
        assert same_color(axis.spines["left"].get_edgecolor(), frame)
    assert not any(axis.images for axis in figure.axes[5:])


def test_dollar_signs_in_captions_are_no_formulas():
    figure = plots.image_grid(IMAGES[:1], [r"$\frac{$ and $x$"], section="failures")
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert figure.section == "failures"


def test_grid_without_images_can_be_shown():
    assert plots.image_grid(IMAGES[:0], [])._repr_png_().startswith(b"\x89PNG")


def test_heat_is_laid_over_the_grey_image_and_nothing_where_there_is_none():
    heat = np.zeros((16, 16))
    heat[:, 8:] = 1
    shown = overlay_heat(IMAGES[0], heat)
    assert (shown[:, :8] == IMAGES[0][:, :8, None]).all()
    hottest = 0.45 * IMAGES[0][:, 8:, None] + 0.55 * np.array([252, 253, 191])
    assert np.abs(shown[:, 8:] - hottest).max() < 2


def test_ranges_are_in_order_with_their_mean_and_spread_and_the_last_one_stands_out():
    scores = pd.DataFrame({"naive": [0.8, 0.9], "split by group": [0.5, 0.7]})
    axis = plots.ranges(scores, "Title", "accuracy").axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == list(scores)
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([0.85, 0.6])
    assert not same_color(axis.patches[0].get_facecolor(), axis.patches[1].get_facecolor())
    assert [text.get_text() for text in axis.texts] == ["0.85", "0.60"]
