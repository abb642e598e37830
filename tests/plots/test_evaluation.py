import numpy as np
import pytest
from matplotlib.colors import same_color

from bonelib.config import CLASSES
from bonelib.evaluation import calibration
from bonelib.evaluation.evaluate import evaluate, failures
from bonelib.plots import evaluation as plots
from bonelib.plots.style import MAGENTA, class_colours
from tests.builders import draw_predictions, predictions_table, waves

LEAF = {"value": 0.6, "low": 0.5, "high": 0.7}
UNDEFINED = {"value": None, "low": None, "high": None}
METRICS = {
    "test": {"plain": dict.fromkeys(plots.COMPARED_METRICS, LEAF)},
    "baselines": {"majority": {"auroc": UNDEFINED, "macro_f1": LEAF, "accuracy": LEAF}},
}
METRICS["baselines"]["majority"]["accuracy"] = {"value": 0.6, "low": None, "high": None}
CURVE = {"coverage": [0.25, 0.5, 1.0], "risk": [0.0, 0.1, 0.4], "threshold": [0.9, 0.7, 0.4]}


@pytest.mark.parametrize("names", [("well", "ill"), CLASSES, ("a", "b", "c", "d")])
def test_every_figure_is_made_for_any_number_of_classes(names):
    y, probabilities, groups = draw_predictions(class_count=len(names))
    hits = probabilities.argmax(1) == y
    rows = calibration.reliability(probabilities.max(1), hits, groups)
    predictions = predictions_table(class_names=names)
    wrong = failures(predictions, names, 4)["most confident errors"]
    images = np.stack([waves(seed, (16, 16)) for seed in range(len(wrong))])
    metrics = evaluate(predictions, names, resamples=30)
    figures = {
        "metrics": plots.confusion_matrices(metrics["confusion"], names),
        "calibration": plots.reliability_diagram({"before": rows, "after": rows}),
        "abstain": plots.accuracy_by_coverage(
            calibration.coverage_risk(y, probabilities), 0.5, 0.9
        ),
        "baselines": plots.comparison(metrics),
        "failures": plots.gallery(images, wrong, names, "Errors"),
    }
    for section, figure in figures.items():
        assert figure.section == section
        png = figure._repr_png_()
        assert int.from_bytes(png[16:20], "big") == 800


def test_confusion_shows_counts_and_shares_of_the_true_class():
    figure = plots.confusion_matrices(
        {"plain": [[3, 1], [0, 0]], "tta": [[4, 0], [0, 0]]}, ("well", "ill")
    )
    cells = [text.get_text() for text in figure.axes[0].texts]
    assert cells == ["3\n75%", "1\n25%", "0\n0%", "0\n0%"]
    assert figure.axes[0].get_ylabel() == "true class"
    assert figure.axes[0].get_xlabel() == "predicted class"


def test_roc_leaves_out_a_class_that_is_absent():
    y, probabilities, _ = draw_predictions()
    axis = plots.roc(np.minimum(y, 1), probabilities, CLASSES).axes[0]
    curves = [line for line in axis.lines if "AUROC" in line.get_label()]
    assert [line.get_label().split()[0] for line in curves] == ["Normal", "Osteopenia"]
    assert same_color(curves[0].get_color(), class_colours(CLASSES)["Normal"])


def test_reliability_has_the_number_of_images_of_the_last_stage():
    row = {"p": 0.7, "hit": 0.6, "low": 0.4, "high": 0.8}
    figure = plots.reliability_diagram({"before": [row | {"n": 5}], "after": [row | {"n": 7}]})
    assert [text.get_text() for text in figure.axes[0].texts] == ["7"]


def test_threshold_is_marked_at_the_last_answered_image():
    axis = plots.accuracy_by_coverage(CURVE, 0.65, 0.9).axes[0]
    marks = [line for line in axis.lines if line.get_marker() == "o"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks] == [(0.5, 0.9)]
    assert same_color(marks[0].get_color(), MAGENTA)


def test_threshold_that_answers_nothing_can_be_shown():
    axis = plots.accuracy_by_coverage(CURVE, 0.95, 0.9).axes[0]
    assert [len(line.get_xdata()) for line in axis.lines if line.get_marker() == "o"] == [0]
    axis = plots.accuracy_by_coverage(CURVE, None, 0.9).axes[0]
    assert "o" not in [line.get_marker() for line in axis.lines]


def test_comparison_shows_points_and_intervals_where_they_are_defined():
    auroc, _, accuracy = plots.comparison(METRICS).axes
    points = [axis.collections[1].get_offsets() for axis in (auroc, accuracy)]
    assert points[0][~np.ma.getmaskarray(points[0]).any(1)].tolist() == [[0.6, 0]]
    assert points[1].tolist() == [[0.6, 0], [0.6, 1]]
    segments = [segment for segment in accuracy.collections[0].get_segments() if len(segment)]
    assert [segment.tolist() for segment in segments] == [[[0.5, 0], [0.7, 0]]]


def test_gallery_names_the_true_and_the_predicted_class():
    rows = failures(predictions_table(), CLASSES, 1)["most confident errors"]
    row = rows.iloc[0]
    axis = plots.gallery(waves(1, (16, 16))[None], rows, CLASSES, "").axes[0]
    caption = axis.get_title(loc="left")
    assert f"true {row['label']}\npredicted {row['prediction']} {row['confidence']:.0%}" in caption
    assert same_color(axis.spines["left"].get_edgecolor(), class_colours(CLASSES)[row["label"]])
