import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from bonelib.config import CLASSES, Config
from bonelib.evaluation import gradcam
from bonelib.messages import RunError
from bonelib.training.model import build

SIZE = 56
ILL = 2


class OnePatch(torch.nn.Module):
    """A backbone that sees how bright one square of the image is: evidence for the last class."""

    def __init__(self, row, column, class_count):
        super().__init__()
        self.square, self.class_count = (row, column), class_count
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward_features(self, x):
        cells = F.adaptive_avg_pool2d(x, 14)  # (B, 1, 14, 14)
        mask = torch.zeros(14, 14)
        mask[self.square] = 1
        return cells.relu() * mask * self.scale

    def forward_head(self, features):
        brightness = features.flatten(1).sum(1)
        others = [torch.zeros_like(brightness)] * (self.class_count - 1)
        return torch.stack([*others, 4 * brightness - 1], 1)


class PatchNet(torch.nn.Module):
    def __init__(self, row=6, column=7, class_count=3):
        super().__init__()
        self.backbone = OnePatch(row, column, class_count)
        self.mean, self.std = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 255.0)

    def forward(self, images):
        features = self.backbone.forward_features((images.float() - self.mean) / self.std)
        return self.backbone.forward_head(features)


def without_map(net):
    """The same model with features (B, D), as those of a vision transformer's token."""
    forward_features = net.backbone.forward_features
    net.backbone.forward_features = lambda x: forward_features(x).flatten(1)
    return net


def patch_images(count=24, row=6, column=7, names=CLASSES):
    """Noise with a square that is bright in the last class, and the rows of these images."""
    images = np.random.default_rng(0).integers(0, 60, (count, SIZE, SIZE), dtype=np.uint8)
    y = np.arange(count) % len(names)
    square = np.where(y == len(names) - 1, 250, 5)[:, None, None]
    images[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = square
    groups = [f"g{i}" for i in range(count)]
    return images, pd.DataFrame({"label": [names[c] for c in y], "group": groups})


def ill_images():
    images, rows = patch_images()
    ill = images[rows["label"] == "Osteoporosis"]
    return ill, np.full(len(ill), ILL)


def test_heat_is_where_the_model_looks():
    images, classes = ill_images()
    maps = gradcam.heatmaps(PatchNet(), images, classes)
    assert maps.shape == images.shape
    assert maps.min() >= 0 and maps.max() == pytest.approx(1)
    peaks = [np.unravel_index(heat.argmax(), heat.shape) for heat in maps]
    assert all(24 <= y < 28 and 28 <= x < 32 for y, x in peaks)


def test_heat_is_the_gradient_weighted_sum_of_feature_maps():
    torch.manual_seed(0)
    net = build(Config(backbone="test_efficientnet", pretrained=False), 3).eval()
    torch.nn.init.normal_(net.backbone.classifier.weight)
    images, classes = patch_images(3)[0], np.array([0, 2, 1])
    x = (torch.from_numpy(images)[:, None].float() - net.mean) / net.std
    features = net.backbone.forward_features(x).detach().requires_grad_()
    logits = net.backbone.forward_head(features)
    for i, (heat, c) in enumerate(
        zip(gradcam.heatmaps(net, images, classes), classes, strict=True)
    ):
        (gradient,) = torch.autograd.grad(logits[i, c], features, retain_graph=True)
        weights = gradient[i].mean((1, 2))
        cam = (weights[:, None, None] * features[i]).sum(0).relu().detach()
        resized = F.interpolate(cam[None, None], (SIZE, SIZE), mode="bilinear")[0, 0].numpy()
        assert np.allclose(heat, resized / resized.max(), atol=1e-5)


def test_heat_needs_no_gradient_of_the_backbone():
    net = PatchNet().requires_grad_(False)
    images, classes = ill_images()
    assert gradcam.heatmaps(net, images[:1], classes[:1]).max() == pytest.approx(1)


def test_heat_is_the_same_in_a_backbone_that_keeps_channels_last():
    net, (images, classes) = PatchNet(), ill_images()
    expected = gradcam.heatmaps(net, images, classes)
    forward_features, forward_head = net.backbone.forward_features, net.backbone.forward_head
    net.backbone.output_fmt = "NHWC"
    net.backbone.forward_features = lambda x: forward_features(x).permute(0, 2, 3, 1)
    net.backbone.forward_head = lambda features: forward_head(features.permute(0, 3, 1, 2))
    assert np.allclose(gradcam.heatmaps(net, images, classes), expected)


def test_backbone_without_a_map_is_rejected_with_the_shape_of_its_features():
    images, classes = ill_images()
    with pytest.raises(RunError, match=rf"\({len(images)}, 196\)"):
        gradcam.heatmaps(without_map(PatchNet()), images, classes)


def test_deletion_tells_a_true_map_from_a_false_one():
    images, classes = ill_images()
    maps = gradcam.heatmaps(PatchNet(), images, classes)
    true = gradcam.deletion(PatchNet(), images, maps, classes)
    assert 0 < true["low"] < true["value"] < true["high"] < 1
    false = gradcam.deletion(PatchNet(), images, np.roll(maps, 20, axis=2), classes)
    assert false["value"] < 0.5 * true["value"]


def test_corners_only_keeps_the_corners_and_nothing_else():
    images = patch_images(2)[0]
    found = gradcam.corners_only(images)
    assert np.array_equal(found[:, :14, -14:], images[:, :14, -14:])
    middle = found[:, 14:42, :]
    assert all(len(np.unique(image)) == 1 for image in middle)
    other = images.copy()
    other[:, 14:42, 14:42] = 255
    assert np.array_equal(gradcam.corners_only(other), found)


@pytest.mark.parametrize("names", [CLASSES, ("Normal", "Osteoporosis"), tuple("abcde")])
def test_model_that_reads_a_corner_is_an_alarm_and_another_one_is_not(names):
    for place, alarms in (((0, 0), 1), ((6, 7), 0)):
        images, rows = patch_images(60, *place, names)
        net = PatchNet(*place, class_count=len(names))
        explained = gradcam.explain(net, images, rows, names)
        levels = [finding["level"] for finding in explained["findings"]]
        assert levels.count("alarm") == alarms
        assert (explained["corners_only"]["auroc"]["value"] > 0.65) is bool(alarms)


def test_maps_of_at_most_twelve_images_are_checked_by_deletion():
    images, rows = patch_images(60)
    explained = gradcam.explain(PatchNet(), images, rows, CLASSES)
    assert explained["images"] == 12
    assert set(explained["deletion"]["gain"]) == {"value", "low", "high"}
    assert len(explained["findings"]) == 2 and "no_map" not in explained


def test_backbone_without_a_map_still_gets_the_check_of_the_corners():
    net = without_map(PatchNet(0, 0))
    explained = gradcam.explain(net, *patch_images(row=0, column=0), CLASSES)
    assert "deletion" not in explained and "196" in explained["no_map"]
    assert [finding["level"] for finding in explained["findings"]] == ["alarm", "note"]
