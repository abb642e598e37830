import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from bonelib import explain
from bonelib.config import CLASSES

SIZE = 56


class OnePatch(torch.nn.Module):
    """A backbone that knows only how bright one square of the picture is, and says so for class 2."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.at, self.scale = (row, column), torch.nn.Parameter(torch.ones(()))

    def forward_features(self, x):
        maps = F.adaptive_avg_pool2d(x, 14)  # (B, 1, 14, 14)
        mask = torch.zeros(14, 14)
        mask[self.at] = 1
        return maps.relu() * mask * self.scale

    def forward_head(self, features):
        seen = features.sum((1, 2, 3))
        return torch.stack([torch.zeros_like(seen), torch.zeros_like(seen), 4 * seen - 1], 1)


class Net(torch.nn.Module):
    def __init__(self, row: int = 6, column: int = 7) -> None:
        super().__init__()
        self.backbone = OnePatch(row, column)
        self.mean, self.std = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 255.0)

    def forward(self, pictures):
        return self.backbone.forward_head(self.backbone.forward_features((pictures.float() - self.mean) / self.std))


def pictures(n=24, row=6, column=7):
    """Noise with a bright square, brighter in class 2, and the rows of those pictures."""
    rng = np.random.default_rng(0)
    out, y = rng.integers(0, 60, (n, SIZE, SIZE), dtype=np.uint8), np.arange(n) % 3
    out[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = np.where(y == 2, 250, 5)[:, None, None]
    return out, pd.DataFrame({"label": [CLASSES[c] for c in y], "group": [f"g{i}" for i in range(n)]})


def test_heat_lies_where_the_model_looks():
    images, rows = pictures()
    ill = images[rows["label"] == "Osteoporosis"]
    heats = explain.heat(Net(), ill, np.full(len(ill), 2))
    assert heats.shape == ill.shape
    assert heats.min() >= 0 <= heats.max() <= 1
    peaks = [np.unravel_index(h.argmax(), h.shape) for h in heats]
    assert all(24 <= y < 28 and 28 <= x < 32 for y, x in peaks)


def test_heat_needs_no_gradient_of_the_backbone():
    net = Net()
    net.requires_grad_(False)
    images, _ = pictures()
    assert explain.heat(net, images[2:3], np.array([2])).max() == pytest.approx(1)


def test_a_backbone_without_a_map_is_refused():
    net = Net()
    net.backbone.forward_features = lambda x: x.flatten(1)
    with pytest.raises(explain.NoMapError, match="expected a map"):
        explain.heat(net, pictures()[0][:1], np.array([2]))


def test_a_backbone_without_a_map_still_gets_the_check_of_the_corners():
    net = Net(0, 0)
    flat = net.backbone.forward_features
    net.backbone.forward_features = lambda x: flat(x).flatten(1)
    net.backbone.forward_head = lambda features: torch.stack([0 * (s := features.sum(1)), 0 * s, 4 * s - 1], 1)
    found = explain.explain(net, *pictures(row=0, column=0))
    assert "regions" not in found and found["verdict"][0].startswith("Shortcut: shown the corners alone")
    assert found["verdict"][1].startswith("No heat maps: the backbone's features are (")


def test_heat_lies_at_the_same_place_in_a_backbone_that_keeps_channels_last():
    net, images = Net(), pictures()[0][2:5]
    expected = explain.heat(net, images, np.full(3, 2))
    flat, head = net.backbone.forward_features, net.backbone.forward_head
    net.backbone.output_fmt = "NHWC"
    net.backbone.forward_features = lambda x: flat(x).permute(0, 2, 3, 1)
    net.backbone.forward_head = lambda features: head(features.permute(0, 3, 1, 2))
    assert np.allclose(explain.heat(net, images, np.full(3, 2)), expected)


def test_deletion_and_insertion_tell_a_true_map_from_a_false_one():
    images, rows = pictures()
    ill, two = images[rows["label"] == "Osteoporosis"], np.full(8, 2)
    true = explain.faithfulness(Net(), ill, explain.heat(Net(), ill, two), two)
    assert true["deletion"]["gain"]["low"] > 0 < true["insertion"]["gain"]["low"]
    elsewhere = np.roll(explain.heat(Net(), ill, two), 20, axis=2)
    false = explain.faithfulness(Net(), ill, elsewhere, two)
    assert false["deletion"]["gain"]["value"] < 0.5 * true["deletion"]["gain"]["value"]
    assert true["deletion"]["heat"][0] == pytest.approx(true["insertion"]["heat"][-1])  # both are the whole picture


def test_regions_are_told_apart():
    picture = np.zeros((96, 96), np.uint8)
    picture[:, 16:80] = 60
    picture[20:80, 38:58] = 150
    picture[84, 60:74] = 255
    names = np.array(explain.REGIONS)[explain.regions(picture)]
    assert (names[:, :16] == "padding").all()
    assert (names[30:70, 42:54] == "bone").all()
    assert (names[84, 61:73] == "overlay").all()
    assert names[0, 40] == "border"
    assert (explain.regions(np.zeros((8, 8), np.uint8)) == explain.REGIONS.index("padding")).all()


def test_shares_of_heat_and_of_area_each_add_up_to_one():
    images, _ = pictures(4)
    heats = np.random.default_rng(1).random(images.shape).astype(np.float32)
    for kind in ("heat", "area"):
        assert sum(v[kind] for v in explain.shares(images, heats).values()) == pytest.approx(1)


def test_a_model_that_reads_a_corner_is_caught_by_the_corners():
    images, rows = pictures(row=0, column=0)
    caught = explain.explain(Net(0, 0), images, rows)
    assert any(s.startswith("Shortcut") for s in caught["verdict"])
    images, rows = pictures(60)
    honest = explain.explain(Net(), images, rows)
    assert not any(s.startswith("Shortcut") for s in honest["verdict"])
