import numpy as np
import pytest

from bonelib.config import CLASSES
from bonelib.evaluation import calibration
from bonelib.plots import evaluation as plots
from tests.builders import draw_predictions, evaluate, predictions_table

LEAF = {"value": 0.6, "low": 0.5, "high": 0.7}
UNDEFINED = {"value": None, "low": None, "high": None}
METRICS = {
    "test": {"plain": dict.fromkeys(plots.COMPARED_METRICS, LEAF)},
    "baselines": {"majority": {"auroc": UNDEFINED, "macro_f1": LEAF, "accuracy": LEAF}},
}
METRICS["baselines"]["majority"]["accuracy"] = {"value": 0.6, "low": None, "high": None}


@pytest.mark.parametrize("names", [("well", "ill"), CLASSES, ("a", "b", "c", "d")])
def test_every_figure_is_made_for_any_number_of_classes(names):
    y, probabilities, groups = draw_predictions(class_count=len(names))
    hits = probabilities.argmax(1) == y
    rows = calibration.reliability(probabilities.max(1), hits, groups)
    predictions = predictions_table(class_names=names)
    metrics = evaluate(predictions, names, resamples=30)
    figures = {
        "metrics": plots.confusion_matrices(metrics["confusion"], names),
        "calibration": plots.reliability_diagram({"before": rows, "after": rows}),
        "baselines": plots.comparison(metrics),
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


def test_reliability_has_the_number_of_images_of_the_last_stage():
    row = {"p": 0.7, "hit": 0.6, "low": 0.4, "high": 0.8}
    figure = plots.reliability_diagram({"before": [row | {"n": 5}], "after": [row | {"n": 7}]})
    assert [text.get_text() for text in figure.axes[0].texts] == ["7"]


def test_comparison_shows_points_and_intervals_where_they_are_defined():
    auroc, _, accuracy = plots.comparison(METRICS).axes
    points = [axis.collections[1].get_offsets() for axis in (auroc, accuracy)]
    assert points[0][~np.ma.getmaskarray(points[0]).any(1)].tolist() == [[0.6, 0]]
    assert points[1].tolist() == [[0.6, 0], [0.6, 1]]
    segments = [segment for segment in accuracy.collections[0].get_segments() if len(segment)]
    assert [segment.tolist() for segment in segments] == [[[0.5, 0], [0.7, 0]]]
