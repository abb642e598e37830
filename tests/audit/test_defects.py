"""Defects of single images and of single metadata values."""

import numpy as np
import pandas as pd
from PIL import Image

from bonelib.audit.defects import image_defects, odd_values
from bonelib.data.cache import cached_images


def test_each_defect_of_an_image_is_named_and_a_good_image_has_none(tmp_path):
    good = np.zeros((224, 224), np.uint8)
    good[:, 60:160] = 150
    good += np.random.default_rng(0).integers(0, 20, good.shape, np.uint8)
    drawn = np.repeat(good[:, :, None], 3, 2)
    drawn[50:53, 20:200] = (255, 220, 0)
    bright = good.copy()
    bright[:130] = 255
    images = {
        "good": good,
        "blank": np.full((224, 224), 9, np.uint8),
        "inverted": 255 - good,
        "tiny": good[:50, 40:90],
        "overlay": drawn,
        "aspect": good[:64],
        "dark": good // 8,
        "bright": bright,
        "extension": good,
    }
    for name, pixels in images.items():
        image_format = "JPEG" if name == "extension" else "PNG"
        Image.fromarray(pixels).save(tmp_path / f"{name}.png", image_format)
    paths = [f"{name}.png" for name in images]
    thumbnails, facts = cached_images(tmp_path, paths, 224, tmp_path / "cache")
    rows = facts.assign(path=paths).itertuples()
    for row, thumbnail in zip(rows, thumbnails, strict=True):
        expected = set() if row.path == "good.png" else {row.path.removesuffix(".png")}
        assert image_defects(row, thumbnail) == expected


def odd(column: str, values: list) -> list[tuple[str, object]]:
    paths = [f"{i}.png" for i in range(len(values))]
    found = odd_values(pd.DataFrame({"path": paths, column: values}), [column])
    assert all(entry["column"] == column and entry["reason"] for entry in found)
    return [(entry["path"], entry["value"]) for entry in found]


def test_a_text_among_numbers_is_odd_and_a_column_of_texts_is_not():
    assert odd("weight", [*range(50, 61), "heavy"]) == [("11.png", "heavy")]
    assert odd("weight", [*range(50, 61), "heavy", *[None] * 4]) == [("11.png", "heavy")]
    assert odd("site", ["a", "b"] * 6) == []


def test_a_number_far_from_all_others_is_odd_and_a_high_one_is_not():
    assert odd("age", [*range(50, 79), 107]) == [("29.png", 107)]
    assert odd("age", [*range(50, 79), 84]) == []


def test_ages_far_below_or_above_are_odd_and_a_missing_one_is_not():
    assert odd("age", [50, 51, 52, -4, None, *range(53, 60), 121]) == [
        ("3.png", -4),
        ("12.png", 121),
    ]
    assert odd("Age (years)", [*range(50, 60), 121]) == [("10.png", 121)]
    assert odd("z_score", [0.5, 0.1, 0.2, -0.4, None, 0.3, -0.1, 0.0, -0.2]) == []


def test_only_a_number_farther_from_the_next_than_half_the_margin_is_odd():
    # the margin is 1.5 times the range of the middle half: 15
    assert odd("weight", [0] * 10 + [10] * 10 + [20, 27.5]) == []
    assert odd("weight", [0] * 10 + [10] * 10 + [20, 27.6]) == [("21.png", 27.6)]


def test_few_or_equal_numbers_say_nothing_about_what_is_odd():
    assert odd("weight", [60, 61, 62, 900]) == []
    assert odd("weight", [60] * 12) == []
