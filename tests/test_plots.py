import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from bonelib import calibrate, plots, plots_audit
from bonelib.config import CLASSES

RNG = np.random.default_rng(0)
Y = np.arange(60) % 3
PROBS = calibrate.apply_temperature(RNG.dirichlet([1, 1, 1], 60) + 0.5 * np.eye(3)[Y], 1)
IMAGES = RNG.integers(0, 255, (5, 16, 16), dtype=np.uint8)
LABELS = [CLASSES[c] for c in Y]
TABLE = pd.DataFrame(
    {"path": [f"{c}/{i}.png" for i, c in enumerate(LABELS)], "label": LABELS, "split": "train", "draws": 2}
)
ROWS = pd.concat([TABLE, pd.DataFrame(PROBS, columns=["p_normal", "p_osteopenia", "p_osteoporosis"])], axis=1)
HISTORY = pd.DataFrame({
    "epoch": [1, 2, 3], "lr": [1e-3, 5e-4, 1e-3], "train_loss": [1, 0.8, 0.7], "val_loss": [1.1, 0.9, 1.0],
    "train_accuracy": [0.4, 0.6, 0.7], "val_accuracy": [0.4, 0.6, 0.5], "val_f1": [0.3, 0.5, 0.4],
})  # fmt: skip
FIGURE = {"value": 0.6, "low": 0.5, "high": 0.7}
UNKNOWN = {"value": None, "low": None, "high": None}
METRICS = {
    "test": {"plain": dict.fromkeys(("auroc", "macro_f1", "accuracy"), FIGURE)},
    "baselines": {"majority": {"auroc": UNKNOWN, "macro_f1": FIGURE, "accuracy": FIGURE | {"low": None}}},
}
SEEN = [{"name": "age", "auroc": 0.9, "low": 0.8, "high": 0.95, "warning": "Age tells."},
        {"name": "width", "auroc": 0.4, "low": 0.2, "high": 0.6, "warning": None}]  # fmt: skip
CLUSTER = {"paths": TABLE["path"][:3].tolist(), "labels": LABELS[:3], "kinds": ["mirrored", "resized"], "confidence": 0.9,
           "conflict": True}  # fmt: skip
FINDINGS = {
    "flow": {"found": 9, "readable": 8, "unique": 6, "unconflicted": 6, "used": 5}, "shortcuts": SEEN,
    "clusters": [CLUSTER | {"conflict": False, "kinds": ["same file"], "paths": TABLE["path"][3:5].tolist()}, CLUSTER],
}  # fmt: skip
DRAWN = {
    "flow": lambda: plots_audit.flow(FINDINGS),
    "clusters": lambda: plots_audit.clusters(FINDINGS, TABLE.head(5), IMAGES),
    "no clusters": lambda: plots_audit.clusters({"clusters": []}, TABLE.head(0), IMAGES[:0]),
    "shortcuts": lambda: plots_audit.shortcuts(FINDINGS),
    "no shortcuts": lambda: plots_audit.shortcuts({"shortcuts": []}),
    "rates": lambda: plots.rates(pd.DataFrame({"lr": [1e-4, 1e-3, 1e-2], "loss": [1.1, 0.9, 1.4]})),
    "class counts": lambda: plots.class_counts(TABLE, "split"),
    "balance": lambda: plots.balance(TABLE),
    "grid": lambda: plots.grid(IMAGES, list("abcde"), title="Samples"),
    "heat maps": lambda: plots.grid(IMAGES, list("abcde"), heats=IMAGES / 255),
    "history": lambda: plots.history(HISTORY),
    "one epoch": lambda: plots.history(HISTORY.head(1)),
    "confusion": lambda: plots.confusion({"plain": np.eye(3, dtype=int), "tta": np.zeros((3, 3), int)}),
    "roc": lambda: plots.roc(Y, PROBS),
    "roc, a class absent": lambda: plots.roc(Y % 2, PROBS),
    "reliability": lambda: plots.reliability({"before": calibrate.reliability(PROBS.max(1), PROBS.argmax(1) == Y)}),
    "coverage": lambda: plots.coverage_risk(calibrate.coverage_risk(Y, PROBS), 0.5, 0.9),
    "coverage, no threshold": lambda: plots.coverage_risk(calibrate.coverage_risk(Y, PROBS)),
    "comparison": lambda: plots.comparison(METRICS),
    "gallery": lambda: plots.gallery(IMAGES, ROWS.head(5), "Errors"),
    "gallery of nothing": lambda: plots.gallery(IMAGES[:0], ROWS.head(0), "Errors"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_is_800_px_wide_and_shows_itself(name):
    png = DRAWN[name]()._repr_png_()
    assert png[:4] == b"\x89PNG"
    assert int.from_bytes(png[16:20], "big") == 800


def test_each_class_has_one_colour_that_colour_blind_readers_can_tell_apart():
    # Machado 2009, severity 1: deuteranopia and protanopia, on linear rgb
    blind = np.array([
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    ])  # fmt: skip
    assert tuple(plots.PALETTE) == CLASSES
    for matrix in blind:
        seen = [matrix @ np.power(to_rgb(c), 2.2) for c in plots.PALETTE.values()]
        assert min(np.linalg.norm(seen[i] - seen[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.3


def test_balance_shows_images_and_draws():
    heights = [bar.get_height() for bar in plots.balance(TABLE).axes[0].patches]
    assert heights == [20, 40] * 3


def test_history_marks_the_epoch_of_best_validation_accuracy():
    lines = [line for line in plots.history(HISTORY).axes[0].lines if line.get_label().startswith("best")]
    assert lines[0].get_xdata()[0] == 2


def test_the_gallery_says_what_was_called_and_how_surely():
    row = ROWS.assign(p_normal=0.1, p_osteopenia=0.2, p_osteoporosis=0.7).head(1)
    assert "true Normal\ncalled Osteoporosis 70%" in plots.gallery(IMAGES[:1], row, "").axes[0].get_title(loc="left")


def test_the_flow_tells_how_many_were_set_aside_at_every_step():
    said = [text.get_text().strip() for text in plots_audit.flow(FINDINGS).axes[0].texts]
    assert said == ["9", "8  (1 set aside)", "6  (2 set aside)", "6", "5  (1 set aside)"]


def test_conflicting_copies_stand_first_and_what_is_left_out_is_said():
    figure = plots_audit.clusters(FINDINGS, TABLE.head(5), IMAGES)
    assert figure.axes[0].texts[0].get_text() == "mirrored\nresized\nconfidence 0.90"
    assert figure.axes[1].images[0].get_array().tolist() == IMAGES[0].tolist()
    assert [axis.get_title() for axis in figure.axes[1:4]] == LABELS[:3]
    assert figure.get_suptitle() == "2 clusters of copies"
    assert plots_audit.clusters(FINDINGS, TABLE.head(5), IMAGES, most=1).get_suptitle().endswith(", 1 shown")


def test_flagged_shortcuts_are_drawn_in_colour():
    axis = plots_audit.shortcuts(FINDINGS).axes[0]
    told = {text.get_text(): text.get_color() for text in axis.texts}
    assert told == {"0.90": plots.PALETTE["Osteoporosis"], "0.40": plots.GREY}
    assert [label.get_text() for label in axis.get_yticklabels()] == ["width", "age"]


def test_the_threshold_is_marked_where_the_last_answered_image_stands():
    curve = {"coverage": [0.25, 0.5, 1.0], "risk": [0.0, 0.1, 0.4], "threshold": [0.9, 0.7, 0.4]}
    mark = [line for line in plots.coverage_risk(curve, 0.65).axes[0].lines if line.get_marker() == "o"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in mark] == [(0.5, 0.9)]
    assert "o" not in [line.get_marker() for line in plots.coverage_risk(curve, 0.95).axes[0].lines]


def test_a_figure_without_an_interval_is_a_point_and_an_undefined_one_is_left_out():
    auroc, _, accuracy = plots.comparison(METRICS).axes
    assert len([line for line in auroc.lines if line.get_marker() == "o"]) == 1  # the majority's AUROC is not defined
    bars = [line.get_xdata() for line in accuracy.lines if line.get_marker() != "o"]
    assert [list(b) for b in bars] == [[0.5, 0.7], [0.6, 0.7]]
