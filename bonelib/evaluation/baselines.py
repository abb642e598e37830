"""What simple methods reach on the same images, and what leakage is worth."""

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from bonelib.config import Config
from bonelib.data.metadata import metadata_columns
from bonelib.evaluation.predict import logits, prediction_table
from bonelib.split import Fold
from bonelib.training.device import device, precision
from bonelib.training.model import build

# The strength C of the regression, and what tuning chooses it from.
STRENGTH = 0.1
STRENGTHS = np.logspace(-4, 1, 6)
# Folds of the inner cross-validation, or fewer where a class has fewer groups.
INNER_FOLDS = 5
# The eight neighbours of a pixel in the order of a circle.
RING = np.array([(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)])


def texture_features(image: np.ndarray) -> np.ndarray:
    """Grey-level histogram, and local binary patterns at 1, 2 and 4 px: (S, S) uint8 to (62,).

    Rotation-invariant uniform patterns: 0..8 neighbours that are not darker, 9 where they are not
    side by side (Ojala 2002, doi 10.1109/TPAMI.2002.1017623).
    """
    counts = [np.bincount(image.ravel() >> 3, minlength=32)]
    for radius in (1, 2, 4):
        shifts = radius * RING
        neighbours = np.stack([np.roll(image, shift, (0, 1)) >= image for shift in shifts])
        changes = (neighbours != np.roll(neighbours, 1, 0)).sum(0, dtype=np.uint8)
        patterns = np.where(changes <= 2, neighbours.sum(0, dtype=np.uint8), 9)
        # The outermost pixels have neighbours beyond the edge.
        inner = patterns[radius:-radius, radius:-radius]
        counts.append(np.bincount(inner.ravel(), minlength=10))
    return np.concatenate([count / count.sum() for count in counts])


def frozen_features(cfg: Config, images: np.ndarray) -> np.ndarray:
    """(N, D): the pooled last feature map of the pretrained backbone; images: (N, S, S) uint8."""
    net = build(cfg, 2).to(device())
    net.backbone.reset_classifier(0)
    mode = precision(cfg, device())
    # Without a classifier the backbone returns its features in place of logits.
    features = logits(net, images, batch_size=2 * cfg.batch_size, precision=mode)
    return features[0].astype(np.float64)  # (N, D)


def cheap_features(cfg: Config, images: np.ndarray) -> np.ndarray:
    """(N, D): the features of the frozen backbone or, without pretrained weights, texture."""
    if cfg.pretrained:
        return frozen_features(cfg, images)
    return np.stack([texture_features(image) for image in images])


def encode_metadata(train, test, columns) -> list[np.ndarray]:
    """Metadata of train and test rows as numbers; what is learned comes from train rows alone.

    Numbers are filled with the median and standardised. Texts are one-hot encoded; values of fewer
    than three rows share a column.
    """
    numeric = [c for c in columns if pd.api.types.is_numeric_dtype(train[c])]
    texts = [c for c in columns if c not in numeric]
    tables = [table[columns].astype(dict.fromkeys(texts, str)) for table in (train, test)]
    median = SimpleImputer(strategy="median", keep_empty_features=True)
    rare = {"handle_unknown": "infrequent_if_exist", "min_frequency": 3}
    numbers = (make_pipeline(median, StandardScaler()), numeric)
    words = (OneHotEncoder(sparse_output=False, **rare), texts)
    encoder = make_column_transformer(numbers, words).fit(tables[0])
    return [encoder.transform(table) for table in tables]


def majority(y_train: np.ndarray, count: int, class_count: int) -> np.ndarray:
    """The class shares of training for each image, (count, K); the argmax is the largest class."""
    return np.tile(np.bincount(y_train, minlength=class_count) / len(y_train), (count, 1))


def regression(strength: float = STRENGTH) -> Pipeline:
    """Logistic regression on standardised features, classes balanced, not yet fitted."""
    # Newton steps converge where there are more features than images, and C is large.
    options = {"class_weight": "balanced", "solver": "newton-cg", "max_iter": 2000}
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, **options))


def logistic_regression(x_train, y_train, x_test, class_count, strength=STRENGTH) -> np.ndarray:
    """Probabilities (N, K) of `regression`; a class without training rows gets probability 0.

    x_train: (M, D). y_train: (M,) in 0..K-1. x_test: (N, D). class_count: K.
    """
    if len(set(y_train.tolist())) < 2:
        return majority(y_train, len(x_test), class_count)
    fitted = regression(strength).fit(x_train, y_train)
    probabilities = np.zeros((len(x_test), class_count))
    probabilities[:, fitted.classes_] = fitted.predict_proba(x_test)
    return probabilities


def out_of_fold(features, y, folds, class_count) -> np.ndarray:
    """Probabilities (N, K): each row as `regression` predicts it from the rows of other folds.

    features: called with two masks (N,), returns the features of the rows of each. y: (N,) in
    0..K-1. folds: (N,). class_count: K.
    """
    probabilities = np.zeros((len(y), class_count))
    for fold in np.unique(folds):
        train, held_out = folds != fold, folds == fold
        x_train, x_test = features(train, held_out)
        probabilities[held_out] = logistic_regression(x_train, y[train], x_test, class_count)
    return probabilities


def choose_strength(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> float:
    """The strength of `regression` that suits these training rows.

    The best by balanced accuracy in cross-validation, no group on both sides; the default where a
    class has one group.
    """
    groups_per_class = pd.Series(groups).groupby(y).nunique()
    count = min(INNER_FOLDS, groups_per_class.min())
    if len(groups_per_class) < 2 or count < 2:
        return STRENGTH
    choices = {"logisticregression__C": STRENGTHS}
    inner = {"cv": StratifiedGroupKFold(count), "scoring": "balanced_accuracy", "refit": False}
    search = GridSearchCV(regression(), choices, **inner).fit(x, y, groups=groups)
    return float(search.best_params_["logisticregression__C"])


def predict_baselines(fold: Fold, table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Test rows of every baseline: path, label, group, split, baseline, then p_<class>.

    table: the catalog, whose metadata columns that may predict are used.
    """
    train, test, count = fold.rows("train"), fold.rows("test"), len(fold.class_names)
    y, groups = fold.labels[train], fold.splits["group"].to_numpy()[train]
    features = {"intensity": np.stack([texture_features(image) for image in fold.images])}
    if table is not None and (columns := metadata_columns(table)[0]):
        known = table.drop_duplicates("path").set_index("path").reindex(fold.splits["path"])
        features["metadata"] = encode_metadata(known.iloc[train], known, columns)[1]
    if fold.cfg.pretrained:
        features["frozen_features"] = frozen_features(fold.cfg, fold.images)
    probabilities = {"majority": majority(y, len(test), count)}
    for name, x in features.items():
        tuned = name == "frozen_features"
        strength = choose_strength(x[train], y, groups) if tuned else STRENGTH
        probabilities[name] = logistic_regression(x[train], y, x[test], count, strength)
    return prediction_table(fold, test, "baseline", probabilities)
