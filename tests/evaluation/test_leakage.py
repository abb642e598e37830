import numpy as np
import pandas as pd

from bonelib.evaluation import leakage


def test_splitting_copies_by_image_pretends_a_result_that_splitting_by_group_does_not():
    rng = np.random.default_rng(0)
    # two copies of each of 60 images without any trace of the class
    features = np.repeat(rng.normal(size=(60, 8)), 2, 0)
    y = np.repeat(rng.integers(0, 2, 60), 2)
    groups = pd.Series(np.repeat(np.arange(60), 2))
    scores = leakage.compare_protocols(features, y, groups, repeats=4, seed=3)
    assert scores["repeat"].unique().tolist() == [3, 4, 5, 6]
    means = scores.groupby("protocol")["accuracy"].mean()
    oversampled, by_image, by_group = means[list(leakage.PROTOCOLS)]
    assert oversampled > by_image - 0.1 > 0.65 > by_group
    sentence = leakage.leakage_sentence(scores)
    assert sentence.index(f"{by_group:.0%}") < sentence.index(f"{by_image:.0%}")
