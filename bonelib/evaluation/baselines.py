"""What simpler methods reach: majority class, texture, metadata, corners, frozen features."""

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from bonelib.data.metadata import metadata_columns
from bonelib.evaluation.features import corner_features, frozen_features, texture_features
from bonelib.evaluation.predict import probability_columns
from bonelib.split import Fold, assign_folds

# Newton steps converge where there are more features than images, and C is large.
REGRESSION = {"class_weight": "balanced", "solver": "newton-cg", "max_iter": 2000}
# What tuning chooses the strength C of the regression from.
STRENGTHS = np.logspace(-4, 1, 6)
# Folds of the inner cross-validation, or fewer where a class has fewer groups.
INNER_FOLDS = 5


def majority(y_train: np.ndarray, count: int, class_count: int) -> np.ndarray:
    """The class shares of training for each image, (count, K); the argmax is the largest class."""
    return np.tile(np.bincount(y_train, minlength=class_count) / len(y_train), (count, 1))


def _regression(strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, **REGRESSION))


def logistic_regression(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    class_count: int,
    strength: float = 0.1,
) -> np.ndarray:
    """Probabilities (N, K) of logistic regression on standardised features, classes balanced.

    A class without training rows gets probability 0.
    """
    if len(set(y_train.tolist())) < 2:
        return majority(y_train, len(x_test), class_count)
    fitted = _regression(strength).fit(x_train, y_train)
    probabilities = np.zeros((len(x_test), class_count))
    probabilities[:, fitted.classes_] = fitted.predict_proba(x_test)
    return probabilities


def _inner_folds(y: np.ndarray, groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit on and rows to score on, every class in both; [] if a class has one group."""
    labels = set(y.tolist())
    count = min(INNER_FOLDS, min(len(set(groups[y == label])) for label in labels))
    if count < 2:
        return []
    folds = assign_folds(y, groups, count, seed=0)
    pairs = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(count)]
    return [pair for pair in pairs if all(set(y[rows].tolist()) == labels for rows in pair)]


def tuned_regression(
    x_train: np.ndarray,
    y_train: np.ndarray,
    groups_train: np.ndarray,
    x_test: np.ndarray,
    class_count: int,
) -> np.ndarray:
    """Probabilities (N, K) of `logistic_regression` with the strength that suits training rows.

    The strength is the best by balanced accuracy in cross-validation within the training rows, no
    group on both sides; 0.1 if a class has fewer than two groups.
    """
    strength, folds = 0.1, _inner_folds(y_train, groups_train)
    if folds:
        choices, score = {"logisticregression__C": STRENGTHS}, "balanced_accuracy"
        search = GridSearchCV(_regression(strength), choices, cv=folds, scoring=score, refit=False)
        strength = search.fit(x_train, y_train).best_params_["logisticregression__C"]
    return logistic_regression(x_train, y_train, x_test, class_count, strength)


def encode_metadata(
    train: pd.DataFrame, test: pd.DataFrame, columns: list[str]
) -> list[np.ndarray]:
    """Metadata of train and test rows as numbers; what is learned comes from train rows alone.

    Numbers are filled with the median and standardised. Texts are one-hot encoded; values of fewer
    than three rows share a column.
    """
    numeric = [c for c in columns if pd.api.types.is_numeric_dtype(train[c])]
    texts = [c for c in columns if c not in numeric]
    train, test = train[columns].copy(), test[columns].copy()
    for table in (train, test):
        filled = table[texts].astype(object)
        table[texts] = filled.where(filled.notna(), "missing").astype(str)
    median = SimpleImputer(strategy="median", keep_empty_features=True)
    rare = {"handle_unknown": "infrequent_if_exist", "min_frequency": 3}
    numbers = (make_pipeline(median, StandardScaler()), numeric)
    words = (OneHotEncoder(sparse_output=False, **rare), texts)
    encoder = make_column_transformer(numbers, words).fit(train)
    return [encoder.transform(table) for table in (train, test)]


def _simple_features(fold: Fold, table: pd.DataFrame | None) -> dict[str, np.ndarray]:
    """The features (N, D) of all rows of the fold, by baseline."""
    features = {}
    intensity = np.stack([texture_features(image) for image in fold.images])
    if table is not None and (columns := metadata_columns(table)[0]):
        known = table.drop_duplicates("path").set_index("path").reindex(fold.splits["path"])
        metadata = encode_metadata(known.iloc[fold.rows("train")], known, columns)[1]
        features["metadata"] = metadata
        features["metadata_image"] = np.hstack([metadata, intensity])
    features["intensity"] = intensity
    features["corners"] = np.stack([corner_features(image) for image in fold.images])
    return features


def predict_baselines(fold: Fold, table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Test rows of every baseline: path, label, group, baseline, then p_<class>.

    table: the catalog, whose metadata columns that may predict are used.
    """
    train, test, count = fold.rows("train"), fold.rows("test"), len(fold.class_names)
    y, groups = fold.labels[train], fold.splits["group"].to_numpy()[train]
    probabilities = {"majority": majority(y, len(test), count)}
    for name, x in _simple_features(fold, table).items():
        probabilities[name] = logistic_regression(x[train], y, x[test], count)
    if fold.cfg.pretrained:
        x = frozen_features(fold.cfg, fold.images)
        probabilities["frozen_features"] = tuned_regression(x[train], y, groups, x[test], count)
    rows = fold.splits.iloc[test][["path", "label", "group"]].reset_index(drop=True)
    columns = probability_columns(fold.class_names)
    tables = []
    for name, values in probabilities.items():
        tables.append(rows.assign(baseline=name).join(pd.DataFrame(values, columns=columns)))
    return pd.concat(tables, ignore_index=True)
