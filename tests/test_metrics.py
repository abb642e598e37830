import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

from bonelib import calibrate, evaluation, metrics
from bonelib.config import CLASSES


def draw(rng, groups=60, skill=1.5, size=3):
    """Labels by patient, probabilities whose errors the images of a patient share, and the patient of each image."""
    group = np.repeat(np.arange(groups), rng.integers(1, size + 1, groups))
    y = rng.choice(3, groups, p=(0.4, 0.35, 0.25))[group]
    z = skill * np.eye(3)[y] + rng.normal(size=(groups, 3))[group] + rng.normal(size=(len(y), 3)) * 0.7
    return y, calibrate.apply_temperature(np.exp(z) / np.exp(z).sum(1, keepdims=True), 1.0), group


def predictions(seed=0, sizes=(60, 30, 40), skill=1.5):
    """A predictions.csv with train, val and test rows, plain and tta."""
    rng, parts = np.random.default_rng(seed), []
    for part, groups in zip(("train", "val", "test"), sizes, strict=True):
        y, probs, group = draw(rng, groups, skill)
        rows = {"path": [f"{CLASSES[c]}/{part}{i}.png" for i, c in enumerate(y)], "label": [CLASSES[c] for c in y]}
        for tta, p in (("plain", probs), ("tta", calibrate.apply_temperature(probs, 1.3))):
            named = dict(zip(metrics.PROBS, p.T, strict=True))
            parts.append(
                pd.DataFrame(rows | {"group": [f"{part}-{g}" for g in group], "split": part, "tta": tta} | named)
            )
    return pd.concat(parts, ignore_index=True)


def test_figures_agree_with_scikit_learn():
    y, probs, _ = draw(np.random.default_rng(1), 80)
    probs[:20] = probs[20:40]  # ties
    called, held = probs.argmax(1), metrics.figures(y, probs)
    expected = {
        "accuracy": sk.accuracy_score(y, called),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called),
        "macro_f1": sk.f1_score(y, called, average="macro"),
        "weighted_f1": sk.f1_score(y, called, average="weighted"),
        "auroc": sk.roc_auc_score(y, probs, multi_class="ovr"),
        "quadratic_kappa": sk.cohen_kappa_score(y, called, weights="quadratic"),
        "log_loss": sk.log_loss(y, probs),
        "expected_cost": np.abs(y - called).mean(),
        "brier": ((probs - np.eye(3)[y]) ** 2).sum(1).mean(),
    }
    assert {k: held[k] for k in expected} == pytest.approx(expected)
    for c, name in enumerate(CLASSES):
        assert held["sensitivity"][name] == pytest.approx(sk.recall_score(y == c, called == c))
        assert held["specificity"][name] == pytest.approx(sk.recall_score(y != c, called != c))
        assert held["ppv"][name] == pytest.approx(sk.precision_score(y == c, called == c))
        assert held["npv"][name] == pytest.approx(sk.precision_score(y != c, called != c))
        assert held["class_auroc"][name] == pytest.approx(sk.roc_auc_score(y == c, probs[:, c]))


def test_sensitivity_at_fixed_specificity_agrees_with_the_roc_curve():
    y, probs, group = draw(np.random.default_rng(2), 80)
    false, true, _ = sk.roc_curve(y == 2, probs[:, 2], drop_intermediate=False)
    held = metrics.intervals(y, probs, group, resamples=30)["binary"]
    assert held["osteoporosis vs rest: sensitivity at 90% specificity"]["value"] == pytest.approx(
        true[false <= 0.1].max()
    )


def test_a_cost_matrix_makes_far_errors_dearer():
    cost = [[0, 1, 9], [1, 0, 1], [9, 1, 0]]
    near, far = np.eye(3)[[1, 1, 2]], np.eye(3)[[2, 1, 2]]
    assert metrics.figures([0, 1, 2], near, cost)["expected_cost"] == pytest.approx(1 / 3)
    assert metrics.figures([0, 1, 2], far, cost)["expected_cost"] == pytest.approx(3)


@pytest.mark.parametrize(
    ("y", "probs"),
    [
        ([1], [[0.2, 0.5, 0.3]]),
        ([0, 1, 0, 1], [[0.2, 0.5, 0.3]] * 4),
        ([2, 2, 2], [[0.1, 0.1, 0.8]] * 3),
        ([0, 0, 1, 1] * 5, [[0.7, 0.2, 0.1], [0.2, 0.1, 0.7]] * 10),
    ],
    ids=["one image", "all one prediction", "all one class, all right", "a class absent from test"],
)
def test_degenerate_input_gives_a_value_or_none_and_no_warning(y, probs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held = metrics.intervals(y, probs, np.arange(len(y)), resamples=60)
        metrics.paired(y, probs, probs, np.arange(len(y)), resamples=60)
    leaves = [v for k, v in held.items() if "value" in v] + [x for k in metrics.PER_CLASS for x in held[k].values()]
    for leaf in leaves:
        assert all(v is None or np.isfinite(v) for v in leaf.values())
    assert held["accuracy"]["value"] == np.mean(np.argmax(probs, 1) == y)
    assert len(y) > 1 or held["accuracy"]["low"] is None


def test_a_class_absent_from_test_is_not_defined_rather_than_zero():
    held = metrics.figures([0, 0, 1, 1], np.eye(3)[[0, 1, 1, 1]])
    assert held["sensitivity"]["Osteoporosis"] is None
    assert held["class_auroc"]["Osteoporosis"] is None
    assert held["macro_f1"] == pytest.approx(sk.f1_score([0, 0, 1, 1], [0, 1, 1, 1], average="macro"))


@pytest.mark.parametrize(
    ("y", "probs", "said"),
    [
        ([0, 1], [[1, 0], [0, 1]], "probs has shape (2, 2): expected (2, 3) with at least one row"),
        ([], np.empty((0, 3)), "probs has shape (0, 3): expected (0, 3) with at least one row"),
        ([0], [[0.9, 0.9, 0.9]], "probs: expected finite rows of probabilities that sum to 1"),
        ([0], [[0.9, 0.1, 0.002]], "probs: expected finite rows of probabilities that sum to 1"),
        ([0], [[1.2, -0.2, 0]], "probs: expected finite rows of probabilities that sum to 1"),
        ([0], [[np.nan, 0.5, 0.5]], "probs: expected finite rows of probabilities that sum to 1"),
        ([0, 3], np.eye(3)[:2], "y holds [0, 3]: expected class indices 0 to 2"),
    ],
)
def test_input_that_is_no_probability_is_refused_with_what_was_expected(y, probs, said):
    with pytest.raises(ValueError) as error:
        metrics.figures(y, probs)
    assert str(error.value) == said
    assert metrics.figures([0], [[0.9, 0.1, 0.0005]])["accuracy"] == 1


def test_losses_by_hand():
    y, probs = [0, 0, 2, 1], np.array([[0.8, 0.1, 0.1], [0.25, 0.7, 0.05], [0, 1, 0], [0.1, 0.62, 0.28]])
    held = metrics.figures(y, probs)
    assert held["log_loss"] == pytest.approx(-np.log([0.8, 0.25, 1e-15, 0.62]).mean())
    assert held["brier"] == pytest.approx((0.06 + 1.055 + 2 + 0.2328) / 4)
    # in tenths of the top probability: 0.8 right; 0.7 wrong; 1 wrong; 0.62 right
    assert held["ece"] == pytest.approx((0.2 + 0.7 + 1 + 0.38) / 4)
    assert held["expected_cost"] == (0 + 1 + 1 + 0) / 4


def written_out(y, probs, rows, cost):
    """Figures of resampled rows, each by scikit-learn or by hand."""
    y, p = y[rows], probs[rows]
    called = p.argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        share = [sk.roc_auc_score(y == c, p[:, c]) if 0 < (y == c).sum() < len(y) else np.nan for c in range(3)]
        seen = np.intersect1d([0, 1, 2], y)
        out = {
            "accuracy": np.mean(y == called), "balanced_accuracy": np.mean([np.mean(called[y == c] == c) for c in seen]),
            "macro_f1": sk.f1_score(y, called, average="macro"), "weighted_f1": sk.f1_score(y, called, average="weighted"),
            "quadratic_kappa": sk.cohen_kappa_score(y, called, labels=[0, 1, 2], weights="quadratic"),
            "auroc": np.nanmean(share), "expected_cost": cost[y, called].mean(),
            "brier": np.square(p - np.eye(3)[y]).sum(1).mean(), "log_loss": -np.log(p[np.arange(len(y)), y]).mean(),
        }  # fmt: skip
        for c, name in enumerate(CLASSES):
            out[f"class_auroc {name}"] = share[c]
            for figure, positive in (("sensitivity", y == c), ("specificity", y != c)):
                out[f"{figure} {name}"] = np.mean((called == c)[positive] == (figure == "sensitivity"))
            for figure, positive in (("ppv", called == c), ("npv", called != c)):
                out[f"{figure} {name}"] = np.mean((y == c)[positive] == (figure == "ppv"))
        for name, classes in metrics.BINARY.items():
            positive, score = np.isin(y, classes), p[:, classes].sum(1)
            false, true, _ = sk.roc_curve(positive, score, drop_intermediate=False)
            out[f"{name}: AUROC"] = sk.roc_auc_score(positive, score)
            out[f"{name}: sensitivity at 90% specificity"] = true[false <= 0.1 + 1e-12].max()
    return out


def expected_interval(name, value, draws, n):
    """The interval that the docstrings promise, from scipy.stats rather than scipy.special."""
    draws = np.array(draws)[np.isfinite(draws)]
    if name in metrics.LOSSES:
        tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1))
        return np.quantile(draws, tail), np.quantile(draws, 1 - tail)
    a, b = (-1, 1) if name == "quadratic_kappa" else (0, 1)
    p = (value - a) / (b - a)
    spread = draws.std() * np.sqrt(n / (n - 1)) / (b - a)
    ends = np.log(p / (1 - p)) + np.array([-1, 1]) * stats.t.ppf(0.975, n - 1) * spread / (p * (1 - p))
    return a + (b - a) / (1 + np.exp(-ends))


def resampled(group, resamples, seed):
    """How often each image is drawn, a row a resample: whole groups, drawn with replacement."""
    names, at = np.unique(group.astype(str), return_inverse=True)
    n = len(names)
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples)[:, at]


def test_intervals_agree_with_a_bootstrap_written_out():
    y, probs, group = draw(np.random.default_rng(13), 26, skill=0.8)
    cost = np.array([[0, 1, 5], [2, 0, 1], [9, 3, 0.0]])
    held = metrics.intervals(y, probs, group, cost, resamples=24, seed=3)
    drawn = [written_out(y, probs, np.repeat(np.arange(len(y)), times), cost) for times in resampled(group, 24, 3)]
    whole = written_out(y, probs, np.arange(len(y)), cost)
    n = np.array([len(set(group[y == c])) for c in range(3)])
    alike = 1 + (1 / n).sum() ** 2 / (1 / (n**2 * (n - 1))).sum()  # patients behind a figure that weighs classes alike
    called = probs.argmax(1)
    for name, value in whole.items():
        figure, _, of = name.partition(" ")
        leaf = held["binary"][name] if ":" in name else held[figure][of] if of in CLASSES else held[name]
        assert leaf["value"] == pytest.approx(value), name
        count = 26 if name in metrics.WHOLE else alike
        if of in CLASSES:
            c = CLASSES.index(of)
            rows = {"specificity": y != c, "ppv": called == c, "npv": called != c}.get(figure, y == c)
            count = len(set(group[rows]))
        low, high = expected_interval(name, value, [d[name] for d in drawn], count)
        assert (leaf["low"], leaf["high"]) == pytest.approx((low, high)), name


def test_differences_agree_with_a_bootstrap_written_out():
    y, probs, group = draw(np.random.default_rng(14), 26)
    other, cost = probs[:, [0, 2, 1]], metrics.COST
    held = metrics.paired(y, probs, other, group, resamples=24, seed=4)
    rows = [np.repeat(np.arange(len(y)), times) for times in resampled(group, 24, 4)]
    drawn = [[written_out(y, p, r, cost) for r in rows] for p in (probs, other)]
    whole = [written_out(y, p, np.arange(len(y)), cost) for p in (probs, other)]
    tail = stats.norm.cdf(np.sqrt(26 / 25) * stats.t.ppf(0.025, 25))
    for name in ("accuracy", "auroc", "quadratic_kappa", "expected_cost", "ppv Osteopenia"):
        figure, _, of = name.partition(" ")
        leaf = held[figure][of] if of else held[name]
        gaps = np.array([a[name] - b[name] for a, b in zip(*drawn, strict=True)])
        assert leaf["value"] == pytest.approx(whole[0][name] - whole[1][name])
        ends = np.quantile(gaps[np.isfinite(gaps)], [tail, 1 - tail])
        assert (leaf["low"], leaf["high"]) == pytest.approx(tuple(ends)), name
    dear = metrics.paired(y, probs, other, group, cost=10 * cost, resamples=24, seed=4)
    assert dear["expected_cost"]["low"] == pytest.approx(10 * held["expected_cost"]["low"])


def test_prevalence_weighs_every_resample():
    y, probs, group = draw(np.random.default_rng(15), 20)
    shares = np.array([0.7, 0.2, 0.1])
    held = metrics.intervals(y, probs, group, resamples=25, seed=5, prevalence=shares)

    def accuracy(times):
        w = times * shares[y] / np.maximum(np.bincount(y, times, 3), 1)[y]
        return np.average(probs.argmax(1) == y, weights=w)

    drawn = [accuracy(times) for times in resampled(group, 25, 5)]
    value = accuracy(np.ones(len(y)))
    assert held["accuracy"]["value"] == pytest.approx(value) == metrics.figures(y, probs, prevalence=shares)["accuracy"]
    low, high = expected_interval("accuracy", value, drawn, 20)
    assert (held["accuracy"]["low"], held["accuracy"]["high"]) == pytest.approx((low, high))
    absent = metrics.figures([0, 0, 1], np.eye(3)[[0, 1, 1]], prevalence=shares)["accuracy"]
    assert absent == pytest.approx((0.7 / 2 + 0.2) / 0.9)  # of the classes present, in their proportion


def test_ece_is_reflected_and_never_below_zero():
    y, probs, group = draw(np.random.default_rng(16), 30)
    leaf = metrics.intervals(y, probs, group, resamples=50, seed=6)["ece"]
    rows = [np.repeat(np.arange(len(y)), times) for times in resampled(group, 50, 6)]
    drawn = [metrics.figures(y[r], probs[r])["ece"] for r in rows]
    low, high = expected_interval("ece", leaf["value"], drawn, 30)
    assert leaf["low"] == pytest.approx(max(0, 2 * leaf["value"] - high))
    assert leaf["high"] == pytest.approx(max(0, 2 * leaf["value"] - low))
    even = metrics.intervals(y, np.full((len(y), 3), 1 / 3), group, resamples=50)["ece"]
    assert even["low"] >= 0


def test_no_errors_leave_the_dearest_error_unknown():
    y = np.array([0, 1, 2] * 6)
    leaf = metrics.intervals(y, np.eye(3)[y], np.arange(18), resamples=30)["expected_cost"]
    assert leaf == {"value": 0.0, "low": 0.0, "high": None}


@pytest.mark.parametrize(("resamples", "known"), [(19, False), (20, True)])
def test_fewer_than_twenty_resamples_or_two_patients_give_no_interval(resamples, known):
    y, probs = np.array([0, 1, 2, 0, 1, 2]), np.eye(3)[[0, 1, 2, 1, 2, 0]]
    held = metrics.intervals(y, probs, np.arange(6), resamples=resamples)
    both = metrics.paired(y, probs, np.eye(3)[y], np.arange(6), resamples=resamples)
    for leaf in (held["accuracy"], held["brier"], both["accuracy"]):
        assert (leaf["low"] is not None) is (leaf["high"] is not None) is known
    one = metrics.intervals(y, probs, np.zeros(6), resamples=resamples)["accuracy"]
    assert one == {"value": 0.5, "low": None, "high": None}
    assert metrics.paired(y, probs, np.eye(3)[y], np.zeros(6))["accuracy"]["low"] is None


def test_two_patients_are_enough_for_an_interval():
    y, probs, group = np.array([0, 1, 2, 0, 1, 2]), np.eye(3)[[0, 1, 2, 1, 2, 0]] * 0.7 + 0.1, [0, 0, 0, 1, 1, 1]
    held, gap = metrics.intervals(y, probs, group), metrics.paired(y, probs, np.eye(3)[y], group)
    for leaf in (held["accuracy"], held["brier"], gap["accuracy"]):
        assert leaf["low"] <= leaf["value"] <= leaf["high"]


def test_a_figure_that_weighs_classes_alike_rests_on_fewer_patients_than_there_are():
    def count(*patients):
        y = np.repeat([0, 1, 2], patients)
        return metrics._balanced_count(y, np.arange(len(y)).astype(str))

    # Welch-Satterthwaite: variances 1/n, degrees of freedom n - 1
    assert count(10, 10, 10) == pytest.approx(1 + 0.3**2 / (3 * 0.1**2 / 9))
    assert count(2, 40, 40) == pytest.approx(1 + 0.55**2 / (0.25 + 2 / (1600 * 39)))
    assert count(1, 30, 30) == 2, "one patient of a class says next to nothing"
    assert count(1, 1, 1) == pytest.approx(1 + 9 / (3 / 0.5))
    shared = metrics._balanced_count(np.array([0, 1, 2] * 4), np.repeat(list("abcd"), 3))
    assert shared == 4, "patients with images of several classes count once"


def test_a_read_out_without_positives_or_negatives_is_not_defined():
    for y in (np.full(6, 2), np.zeros(6, int)):
        held = metrics.intervals(y, np.full((6, 3), 1 / 3), np.arange(6), resamples=30)["binary"]
        for name in ("osteoporosis vs rest: AUROC", "osteoporosis vs rest: sensitivity at 90% specificity"):
            assert held[name] == {"value": None, "low": None, "high": None}


def test_one_healthy_patient_is_enough_to_ask_for_a_specificity():
    scores = np.array([0.9, 0.8, 0.7, 0.2, 0.5])
    probs, y = np.stack([1 - scores, np.zeros(5), scores], 1), np.array([2, 2, 2, 2, 0])
    held = metrics.intervals(y, probs, np.arange(5), resamples=30)["binary"]
    assert held["osteoporosis vs rest: sensitivity at 90% specificity"]["value"] == pytest.approx(3 / 4)


def test_what_a_model_says_in_single_precision_is_summed_up_in_double():
    y, probs, _ = draw(np.random.default_rng(19))
    single = probs.astype(np.float32)
    assert metrics.figures(y, single) == metrics.figures(y, single.astype(float))


def test_a_thousand_resamples_of_seed_zero_are_drawn_unless_asked_otherwise():
    y, probs, group = draw(np.random.default_rng(18), 9)
    assert metrics.intervals(y, probs, group) == metrics.intervals(y, probs, group, resamples=1000, seed=0)
    assert metrics.paired(y, probs, probs[:, ::-1], group) == metrics.paired(
        y, probs, probs[:, ::-1], group, resamples=1000, seed=0
    )
    assert set(metrics.intervals(y, probs, group, resamples=30)) == {*metrics.SCALARS, *metrics.PER_CLASS, "binary"}


def test_resampling_in_blocks_changes_nothing(monkeypatch):
    y, probs, group = draw(np.random.default_rng(17), 20)
    whole = metrics.intervals(y, probs, group, resamples=50)
    for block in (7 * len(y), 1):
        monkeypatch.setattr(metrics, "BLOCK", block)
        held = metrics.intervals(y, probs, group, resamples=50)
        for name in metrics.SCALARS:
            assert held[name] == pytest.approx(whole[name]), name


def test_a_confusion_matrix_has_the_truth_in_rows():
    assert metrics.confusion([0, 0, 2], np.eye(3)[[1, 1, 0]]).tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 0]]
    assert metrics.confusion([2], np.eye(3)[[2]]).shape == (3, 3)


def test_perfect_scores_keep_an_open_lower_end():
    y = np.array([0, 1, 2] * 6)
    held = metrics.intervals(y, np.eye(3)[y], np.arange(len(y)), resamples=100)
    assert held["accuracy"]["low"] == pytest.approx(18 / (18 + 1.959964**2))
    assert held["macro_f1"]["high"] == 1 > held["macro_f1"]["low"]


def test_intervals_widen_when_images_share_their_errors_with_their_patient():
    y, probs, _ = draw(np.random.default_rng(3), 40, size=1)
    y, probs, group = np.repeat(y, 5), np.repeat(probs, 5, 0), np.repeat(np.arange(40), 5)
    alone = metrics.intervals(y, probs, np.arange(len(y)))["accuracy"]
    grouped = metrics.intervals(y, probs, group)["accuracy"]
    assert grouped["high"] - grouped["low"] > 1.8 * (alone["high"] - alone["low"])  # sqrt(5) in theory


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng, names = np.random.default_rng(4), ("accuracy", "macro_f1", "auroc", "quadratic_kappa")
    y, probs, _ = draw(rng, 20_000)
    truth = metrics.figures(y, probs)
    hits = dict.fromkeys(names, 0)
    for i in range(150):
        held = metrics.intervals(*draw(rng, 70), resamples=200, seed=i)
        for name in names:
            hits[name] += held[name]["low"] <= truth[name] <= held[name]["high"]
    assert all(0.89 <= n / 150 <= 0.995 for n in hits.values()), hits


def test_the_same_seed_gives_the_same_interval():
    y, probs, group = draw(np.random.default_rng(5))
    assert metrics.intervals(y, probs, group, seed=7) == metrics.intervals(y, probs, group, seed=7)


def test_a_model_paired_with_itself_differs_by_nothing():
    y, probs, group = draw(np.random.default_rng(6))
    held = metrics.paired(y, probs, probs, group, resamples=50)
    assert set(held["auroc"].values()) == {0.0}


def test_pairing_narrows_the_interval_of_a_difference():
    y, probs, group = draw(np.random.default_rng(7))
    other = calibrate.apply_temperature(probs * [1.1, 1, 1] / (probs * [1.1, 1, 1]).sum(1, keepdims=True), 1.2)
    a, d = metrics.intervals(y, probs, group)["accuracy"], metrics.paired(y, probs, other, group)["accuracy"]
    assert d["high"] - d["low"] < 0.5 * (a["high"] - a["low"])


@pytest.mark.parametrize("temperature", [0.5, 1.7, 3.0])
def test_temperature_scaling_recovers_a_known_temperature(temperature):
    rng = np.random.default_rng(8)
    z = rng.normal(size=(8000, 3)) * 2
    truth = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    y = (rng.random((8000, 1)) > truth.cumsum(1)).sum(1)
    distorted = calibrate.apply_temperature(truth, 1 / temperature)
    assert calibrate.fit_temperature(distorted, y) == pytest.approx(temperature, rel=0.05)


def test_ece_of_perfectly_calibrated_data_is_at_its_floor():
    rng = np.random.default_rng(9)
    probs = rng.dirichlet([1, 1, 1], 4000)
    y = (rng.random((4000, 1)) > probs.cumsum(1)).sum(1)
    ece, floor = metrics.figures(y, probs)["ece"], calibrate.ece_floor(probs)
    assert ece < 2 * floor < 0.05
    assert metrics.figures(y, calibrate.apply_temperature(probs, 0.4))["ece"] > 5 * floor


def test_brier_parts_add_up_to_the_brier_score():
    y, probs, _ = draw(np.random.default_rng(10))
    parts = calibrate.brier_parts(y, probs)
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["remainder"]
    assert total == pytest.approx(parts["brier"]) == pytest.approx(metrics.figures(y, probs)["brier"])
    assert abs(parts["remainder"]) < 0.02


def test_prevalence_reweighting_agrees_with_bayes_by_hand():
    # learnt with 1/3 each, posterior 0.6, 0.3, 0.1; at the clinic 0.1, 0.3, 0.6
    hand = np.array([0.6 * 0.1, 0.3 * 0.3, 0.1 * 0.6]) / (0.06 + 0.09 + 0.06)
    assert calibrate.reweight([[0.6, 0.3, 0.1]], [1 / 3] * 3, [0.1, 0.3, 0.6])[0] == pytest.approx(hand)
    # sensitivity 0.8 and 0.1, 0.2 of the others called Osteoporosis: PPV by Bayes' rule
    y = np.repeat([0, 1, 2], 10)
    called = np.array([2] + [0] * 9 + [2] * 2 + [1] * 8 + [2] * 8 + [1] * 2)
    ppv = metrics.figures(y, np.eye(3)[called], prevalence=[0.7, 0.2, 0.1])["ppv"]["Osteoporosis"]
    assert ppv == pytest.approx(0.1 * 0.8 / (0.1 * 0.8 + 0.2 * 0.2 + 0.7 * 0.1))


def test_threshold_from_validation_reaches_its_target_there():
    y, probs, _ = draw(np.random.default_rng(11), 200)
    threshold = calibrate.choose_threshold(y, probs, 0.9)
    kept = probs.max(1) >= threshold
    assert 0.1 < kept.mean() < 1
    assert (probs.argmax(1) == y)[kept].mean() >= 0.9
    assert calibrate.choose_threshold([0] * 20, np.eye(3)[[1] * 20], 0.9) is None


def test_a_few_lucky_validation_images_set_no_threshold():
    sure, unsure = [0.98, 0.01, 0.01], [0.4, 0.3, 0.3]
    y = [0] * 9 + [1] * 20  # the surest nine are right, the rest wrong
    assert calibrate.choose_threshold(y, [sure] * 9 + [unsure] * 20, 0.9) is None
    assert calibrate.choose_threshold([0, *y], [sure] * 10 + [unsure] * 20, 0.9) == 0.98


def test_evaluation_never_reads_training_rows():
    table = predictions()
    spoiled = table.assign(**{p: np.where(table["split"] == "train", 1 / 3, table[p]) for p in metrics.PROBS})
    assert evaluation.evaluate(table, resamples=30) == evaluation.evaluate(spoiled, resamples=30)


def test_validation_alone_sets_temperature_and_threshold():
    table = predictions()
    test = table["split"] == "test"
    other = table.assign(label=table["label"].where(~test, CLASSES[0]))
    a, b = (evaluation.evaluate(t, resamples=30) for t in (table, other))
    assert a["calibration"]["plain"]["temperature"] == b["calibration"]["plain"]["temperature"]
    assert a["selective"]["plain"]["threshold"] == b["selective"]["plain"]["threshold"]
    assert a["test"]["plain"]["accuracy"] != b["test"]["plain"]["accuracy"]


def test_a_class_threshold_from_validation_reaches_its_predictive_value_there():
    table = predictions(seed=12, sizes=(9, 200, 9))
    held = evaluation.evaluate(table, resamples=30, target=0.9)["selective"]["plain"]["per_class"]["Osteoporosis"]
    val = table[(table["split"] == "val") & (table["tta"] == "plain")]
    temperature = calibrate.fit_temperature(val[metrics.PROBS], val["label"].map(CLASSES.index))
    probs = calibrate.apply_temperature(val[metrics.PROBS], temperature)
    called = (probs.argmax(1) == 2) & (probs.max(1) >= held["threshold"])
    assert (val["label"][called] == "Osteoporosis").mean() >= 0.9
    assert 0 < called.sum() < (probs.argmax(1) == 2).sum()


def test_subgroups_too_small_are_left_out():
    table = predictions()
    paths = table["path"].drop_duplicates().reset_index(drop=True)
    site = np.where(np.arange(len(paths)) % 2, "north", "south").astype(object)
    site[-1] = "east"
    held = evaluation.evaluate(table, metadata=pd.DataFrame({"path": paths, "site": site}), resamples=30)
    assert set(held["subgroups"]["site"]) == {"north", "south"}


def test_numbers_are_cut_into_thirds_and_what_is_missing_is_a_subgroup():
    table = predictions(sizes=(3, 30, 90))
    paths = table["path"].drop_duplicates().tolist()
    age = pd.Series(np.arange(len(paths), dtype=float)).where(np.arange(len(paths)) % 3 > 0)
    held = evaluation.evaluate(table, metadata=pd.DataFrame({"path": paths, "age": age, "same": 1}), resamples=30)
    ((column, blocks),) = held["subgroups"].items()
    assert column == "age" and len(blocks) == 4 and "not known" in blocks
    assert sum(b["images"] for b in blocks.values()) == held["counts"]["images"]


def test_rows_asked_about_twice_or_not_by_all_are_refused():
    table = predictions()
    test = table[(table["split"] == "test") & (table["tta"] == "plain")]
    with pytest.raises(ValueError, match="1 paths twice for plain, test"):
        evaluation.evaluate(pd.concat([table, test.head(1)]))
    with pytest.raises(ValueError, match="the baseline age and the model were not asked about the same test images"):
        evaluation.evaluate(table, test.iloc[1:].assign(baseline="age"))


def test_predictive_values_at_the_prevalence_of_a_clinic():
    table = predictions(sizes=(3, 30, 90))
    test = table[(table["split"] == "test") & (table["tta"] == "plain")]
    y, shares = test["label"].map(CLASSES.index), [0.8, 0.15, 0.05]
    held = evaluation.evaluate(table, prevalence=[16, 3, 1], resamples=30)["at_prevalence"]
    assert held["prevalence"] == pytest.approx(dict(zip(CLASSES, shares, strict=True)))
    by_hand = metrics.figures(y, test[metrics.PROBS], prevalence=shares)["ppv"]["Osteoporosis"]
    assert held["ppv"]["Osteoporosis"]["value"] == pytest.approx(by_hand)


def test_errors_are_counted_by_direction_and_distance():
    rows = [
        ("Normal", 0),
        ("Normal", 2),
        ("Osteopenia", 0),
        ("Osteopenia", 2),
        ("Osteoporosis", 0),
        ("Osteoporosis", 0),
    ]
    parts = [
        {"path": f"{part}{i}", "label": label, "group": f"{part}{i}", "split": part, "tta": "plain"}
        | dict(zip(metrics.PROBS, np.eye(3)[c], strict=True))
        for part in ("val", "test")
        for i, (label, c) in enumerate(rows)
    ]
    held = evaluation.evaluate(pd.DataFrame(parts), resamples=20)
    assert held["ordinal"]["plain"] == {
        "correct": 1, "one class too healthy": 1, "one class too ill": 1, "Osteoporosis called Normal": 2,
        "Normal called Osteoporosis": 1,
    }  # fmt: skip
    assert held["confusion"]["plain"] == [[1, 0, 1], [1, 0, 1], [2, 0, 0]]


def test_failures_are_the_surest_errors_the_least_sure_and_the_most_moved():
    plain = [
        ("a", [0.9, 0.05, 0.05], "Normal"),
        ("b", [0.1, 0.8, 0.1], "Normal"),
        ("c", [0.4, 0.35, 0.25], "Osteopenia"),
    ]
    moved = {"a": [0.9, 0.05, 0.05], "b": [0.7, 0.2, 0.1], "c": [0.4, 0.25, 0.35]}
    rows = [
        {"path": path, "label": label, "split": "test", "tta": tta} | dict(zip(metrics.PROBS, p, strict=True))
        for path, probs, label in plain
        for tta, p in (("plain", probs), ("tta", moved[path]))
    ]
    held = evaluation.failures(pd.DataFrame(rows), 2)
    assert {title: table["path"].tolist() for title, table in held.items()} == {
        "most confident errors": ["b", "c"], "least sure": ["c", "b"], "most changed by test-time views": ["b", "c"]
    }  # fmt: skip
    assert held["most changed by test-time views"]["moved"].tolist() == pytest.approx([0.6, 0.1])


def test_a_second_model_on_the_same_test_split_is_counted(tmp_path):
    table, ledger = predictions(), tmp_path / "test_reads.json"
    assert [evaluation.count_read(table, m, ledger) for m in ("a", "a", "b")] == [1, 1, 2]
    assert evaluation.count_read(predictions(seed=1), "a", ledger) == 1
