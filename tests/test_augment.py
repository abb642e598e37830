"""The policy is strict, seeded and switchable; the views are exact."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from bonelib import augment
from bonelib.config import AUGMENTATIONS, VIEWS, Config
from tests.builders import blocks

IMAGE = blocks()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_step_changes_a_image_and_can_be_switched_off(name):
    step = augment.policy(Config(image_size=96), [name])
    step.transforms[0].p = 1.0
    step.set_random_seed(0)
    changed = step(image=IMAGE)["image"]
    assert (
        changed.shape == IMAGE.shape
        and changed.dtype == np.uint8
        and not np.array_equal(changed, IMAGE)
    )
    rest = tuple(a for a in AUGMENTATIONS if a != name)
    kinds = steps(augment.policy(Config(image_size=96, augment=rest)))
    assert type(step.transforms[0]).__name__ not in kinds and len(kinds) == len(rest)


def steps(policy) -> list[str]:
    return [type(step).__name__ for step in policy.transforms]


def test_same_seed_gives_the_same_image():
    policy = augment.policy(Config(image_size=96))
    out = []
    for seed in (1, 2, 1):
        augment.seed(policy, seed)
        out.append(policy(image=IMAGE)["image"])
    assert np.array_equal(out[0], out[2]) and not np.array_equal(out[0], out[1])


def test_steps_are_drawn_independently_of_each_other():
    policy = augment.policy(Config(image_size=96), ["hflip", "vflip"])
    flips = {"unchanged": IMAGE, "h": IMAGE[:, ::-1], "v": IMAGE[::-1], "both": IMAGE[::-1, ::-1]}
    seen = dict.fromkeys(flips, 0)
    for number in range(200):
        augment.seed(policy, 7, number)
        out = policy(image=IMAGE)["image"]
        seen[next(name for name, flipped in flips.items() if np.array_equal(out, flipped))] += 1
    assert min(seen.values()) > 25, f"each of four in a quarter of 200 draws: {seen}"


def test_strength_zero_leaves_only_the_flips():
    policy = augment.policy(Config(image_size=96, strength=0, augment=AUGMENTATIONS))
    assert [type(t).__name__ for t in policy.transforms] == ["HorizontalFlip", "VerticalFlip"]


def test_bone_brightness_is_changed_a_little_only():
    policy = augment.policy(Config(image_size=96), ["brightness_contrast", "blur", "noise"])
    for seed in range(50):
        augment.seed(policy, seed)
        assert abs(policy(image=IMAGE)["image"].mean() - IMAGE.mean()) < 60


def test_views_are_exact_where_they_can_be_and_named_in_order():
    images = torch.from_numpy(np.stack([IMAGE, IMAGE.T]))[:, None]
    out = augment.views(images)
    assert out.shape == (len(VIEWS), 2, 1, 96, 96) and out.dtype == torch.uint8
    assert torch.equal(out[VIEWS.index("identity")], images)
    assert torch.equal(out[VIEWS.index("mirror")], images.flip(-1))
    for name in VIEWS:
        assert torch.equal(augment.views(images, [name])[0], out[VIEWS.index(name)]), (
            "a view does not depend on the others"
        )


def test_rotated_view_is_rotated_the_right_way_and_zoomed_view_enlarges():
    dot = torch.zeros(1, 1, 101, 101, dtype=torch.uint8)
    dot[..., 50, 90] = 255  # right of the centre
    row = lambda name: int(augment.views(dot, [name])[0, 0, 0].float().sum(1).argmax())  # noqa: E731
    column = lambda name: int(augment.views(dot, [name])[0, 0, 0].float().sum(0).argmax())  # noqa: E731
    assert row("rotate +6") < 50 < row("rotate -6"), "positive degrees are counter-clockwise"
    assert column("zoom 1.06") > 90 > column("zoom 0.94")


@pytest.mark.parametrize(
    ("distribution", "accepted"),
    [("albumentationsx", False), ("AlbumentationsX", False), ("nrtk_albumentations", True)],
)
def test_variant_of_albumentations_with_another_licence_is_rejected_by_name(
    tmp_path, distribution, accepted
):
    metadata = tmp_path / f"{distribution}-2.1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.1.0\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import bonelib.augment"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode == 0) == accepted, done.stderr
    assert accepted or "RunError: albumentationsx" in done.stderr
