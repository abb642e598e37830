"""Every figure that names classes is complete for two to five of them, with long names, too."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from bonelib.config import CLASSES
from bonelib.plots import evaluation, training
from tests.builders import evaluate, predictions_table, waves

CLASS_SETS = [
    ("Normal", "Osteoporosis"),
    ("No osteoporosis at all", "Severe osteoporosis (T-score at most -3.5)"),
    CLASSES,
    ("0", "1", "2", "3", "4"),
    ("Healthy", "Doubtful narrowing", "Osteopenia, mild", "Osteoporosis", "Severe, with fracture"),
]


def make_figures(names):
    """One figure of each kind, by name."""
    table = predictions_table(class_names=names)
    plain = table[table["tta"] == "plain"].assign(draws=1)
    metrics = evaluate(table, names, resamples=30)
    captions = [names[i % len(names)] for i in range(6)]
    copies = [f"{caption}\nmirrored; resized: 0.91" for caption in captions]
    pixels = np.stack([waves(seed, (16, 16)) for seed in range(6)])
    return {
        "counts": training.class_counts(plain, names, "split"),
        "grid": training.image_grid(pixels, captions),
        "copies": training.image_grid(pixels, copies, ["red"] * 6, title="Copies"),
        "confusion": evaluation.confusion_matrices(metrics["confusion"], names),
    }


def is_complete(figure) -> bool:
    """Whether nothing lies outside of the figure."""
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    inside = min(box.x0, box.y0) > -0.02 and box.x1 < width + 0.02 and box.y1 < height + 0.02
    return bool(inside)


def test_long_labels_cut_no_title_off():
    scores = pd.DataFrame({"oversample, then split by image": [0.9, 1.0], "by group": [0.4, 0.6]})
    assert is_complete(training.ranges(scores, "The same classifier, three protocols", "accuracy"))


@pytest.mark.parametrize("names", CLASS_SETS, ids=lambda names: f"{len(names)}-{names[-1][:6]}")
def test_nothing_is_cut_off_and_no_class_name_covers_another(names):
    for kind, figure in make_figures(names).items():
        assert is_complete(figure), kind
        texts = [text for text in figure.findobj(Text) if text.get_visible()]
        named = [text for text in texts if any(name[:5] in text.get_text() for name in names)]
        assert named, kind
        # boxes may touch
        boxes = [text.get_window_extent().padded(-1) for text in named if len(names[-1]) > 1]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2)), kind
