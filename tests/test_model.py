"""Grey uint8 in, logits out; pretrained means pretrained; frozen means frozen."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from bonelib import fusion, model
from bonelib.config import Config, ConfigError
from bonelib.model import WeightsError

SMALL = {"backbone": "test_efficientnet", "pretrained": False}
PICTURES = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (4, 1, 64, 64), dtype=np.uint8))


def test_grey_bytes_are_normalised_as_the_backbone_was_trained():
    net = model.build(Config(**SMALL)).eval()
    given = net.backbone.pretrained_cfg
    mean, std = (torch.tensor(given[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.inference_mode():
        expected = net.backbone((PICTURES.float() / 255 - mean) / std)
        assert torch.allclose(net(PICTURES), expected, atol=1e-5)


def test_faster_squeeze_and_excitation_answers_as_timms_own():
    net = uneven(model.build(Config(backbone="efficientnet_b0", pretrained=False)))
    assert sum(isinstance(m, model.Excite) for m in net.modules()) == 16
    own = timm.create_model("efficientnet_b0", num_classes=3).eval()
    own.load_state_dict(net.backbone.state_dict())
    scaled = (PICTURES.float() - net.mean) / net.std
    assert torch.allclose(net(PICTURES), own(scaled), rtol=1e-4, atol=1e-5) and net(PICTURES).std() > 1e-3


def test_mean_and_std_can_be_given_for_weights_trained_otherwise():
    net = model.build(Config(**SMALL, mean=(0.5,), std=(0.25, 0.5, 0.5)))
    assert (net.mean / 255).flatten().tolist() == [0.5] * 3 and (net.std / 255).flatten().tolist() == [0.25, 0.5, 0.5]


def test_frozen_part_keeps_weights_and_statistics_through_training():
    net = model.build(Config(**SMALL))
    net.freeze(0.5)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net.train()
    net(PICTURES).square().mean().backward()
    optimizer.step()
    trainable = {k for k, p in net.named_parameters() if p.requires_grad}
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    frozen_tensors = len(list(net.backbone.parameters())) - len(trainable)
    assert frozen_tensors == int((len(list(net.backbone.parameters())) - 2) * 0.5)
    assert (
        not any(k.startswith(("backbone.conv_stem", "backbone.bn1")) for k in changed)
        and "backbone.classifier.weight" in changed
    )
    statistics = {k.rsplit(".", 1)[0] for k in changed if "running_mean" in k}
    assert statistics and all(f"{s}.weight" in trainable for s in statistics)


def test_model_starts_at_chance():
    net = model.build(Config(**SMALL)).eval()
    assert net(PICTURES).softmax(1).sub(1 / 3).abs().max() < 0.1


def test_backbone_weights_come_from_a_file(tmp_path):
    donor = timm.create_model("test_efficientnet", num_classes=0)
    save_file(donor.state_dict(), tmp_path / "weights.safetensors")
    net = model.build(Config(backbone="test_efficientnet", weights=str(tmp_path / "weights.safetensors")))
    for name, value in donor.state_dict().items():
        assert torch.equal(net.backbone.state_dict()[name], value), name


@pytest.mark.parametrize("name", ["weights.pth", "missing.safetensors"])
def test_weights_that_are_no_safetensors_file_are_refused(tmp_path, name):
    (tmp_path / "weights.pth").write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match="safetensors"):
        model.build(Config(backbone="test_efficientnet", weights=str(tmp_path / name)))


def test_weights_of_another_model_are_an_error_not_random_ones(tmp_path):
    save_file({"something.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"lacks .* tensors"):
        model.build(Config(backbone="test_efficientnet", weights=str(tmp_path / "w.safetensors")))


def test_unreachable_hub_is_an_error_that_says_how_to_go_on(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"model hub \(OSError: offline\).*BONELIB_PRETRAINED=0"):
        model.build(Config(backbone="efficientnet_b3"))


def test_unknown_backbone_is_an_error_that_names_near_ones():
    with pytest.raises(ConfigError, match="efficientnet_b3"):
        model.build(Config(backbone="efficientnet_b33", pretrained=False))


def test_saved_model_predicts_the_same(tmp_path):
    cfg = Config(**SMALL, mean=(0.4,), std=(0.3,), backbone_args={"pad_type": "same"})
    net = model.build(cfg)
    model.save(net, tmp_path, cfg, epoch=3)
    model.amend(tmp_path, temperature=1.5)
    again, meta = model.load(tmp_path)
    first, second = (model.logits(n, [PICTURES], "no", torch.device("cpu")) for n in (net, again))
    assert np.allclose(first, second, atol=1e-6) and (meta["epoch"], meta["temperature"]) == (3, 1.5)
    assert set(load_file(tmp_path / "model.safetensors")) == set(net.state_dict())


def norms(net: torch.nn.Module) -> list[torch.nn.BatchNorm2d]:
    return [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]


@torch.no_grad()
def uneven(net: model.Net) -> model.Net:
    """As after training: no two channels are normalised alike."""
    for norm in norms(net):
        for values in (norm.running_var, norm.weight):
            values.uniform_(0.5, 1.5)
        for values in (norm.running_mean, norm.bias):
            values.uniform_(-0.3, 0.3)
    return net.eval()


@pytest.mark.parametrize(("backbone", "left"), [("test_efficientnet", 0), ("resnet18", 0), ("resnetv2_50", 17)])
def test_folded_net_answers_the_same_with_fewer_norms(backbone, left):
    net = uneven(model.build(Config(backbone=backbone, pretrained=False)))
    out = fusion.folded(net, 64)
    first, second = (model.logits(n, [PICTURES], "no", torch.device("cpu")) for n in (net, out))
    assert np.abs(first - second).max() < 1e-4 * np.ptp(first) and len(norms(out)) == left < len(norms(net))


def test_net_in_which_a_convolution_feeds_more_than_its_norm_stays_as_it_is():
    net = uneven(model.build(Config(**SMALL)))
    first = net.backbone.conv_stem
    first.register_forward_hook(lambda _, given, out: setattr(first, "last", out))
    net.backbone.bn1.register_forward_hook(lambda _, given, out: out + first.last)
    assert fusion.folded(net, 64) is net


def test_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="03_train"):
        model.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tf_efficientnetv2_b0", {}),
        ("mobilenetv2_100", {"backbone_args": {"pad_type": "same"}, "mean": (0.5,), "std": (0.5,)}),
    ],
)
def test_real_weights_fill_every_tensor_of_the_backbone(shared, name, settings):
    path = shared / "weights" / f"{name}.safetensors"
    net = model.build(Config(backbone=name, weights=str(path), **settings))
    given = load_file(path)
    for key, value in net.backbone.state_dict().items():
        if "classifier" not in key and "num_batches" not in key:
            assert torch.equal(value, given[key]), key
