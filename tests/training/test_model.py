"""Grey uint8 in, logits out; pretrained means pretrained; frozen means frozen."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from bonelib.config import Config
from bonelib.messages import ConfigError, RunError
from bonelib.training import loop, model
from tests.builders import FAMILIES
from tests.training.trainee import training_fold

SMALL = {"backbone": "test_efficientnet", "pretrained": False}
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (4, 1, 64, 64), dtype=np.uint8))
NAMES = ("Normal", "Osteopenia", "Osteoporosis")


def test_grey_bytes_are_normalised_as_the_backbone_was_trained():
    net = model.build(Config(**SMALL), 3).eval()
    known = net.backbone.pretrained_cfg
    mean, std = (torch.tensor(known[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        expected = net.backbone((IMAGES.float() / 255 - mean) / std)
        assert torch.allclose(net(IMAGES), expected, atol=1e-5)


def test_mean_and_std_can_be_given_for_weights_trained_otherwise():
    net = model.build(Config(**SMALL, mean=(0.5,), std=(0.25, 0.5, 0.5)), 3)
    assert (net.mean / 255).flatten().tolist() == [0.5] * 3
    assert (net.std / 255).flatten().tolist() == [0.25, 0.5, 0.5]


@pytest.mark.parametrize("class_count", [2, 3, 5])
def test_model_has_one_logit_per_class_and_starts_at_chance(class_count):
    net = model.build(Config(**SMALL), class_count).eval()
    shares = net(IMAGES).softmax(1)
    assert shares.shape == (4, class_count) and (shares - 1 / class_count).abs().max() < 0.1


def test_dropout_is_in_the_model_and_backbone_args_go_to_timm():
    cfg = Config(backbone="test_efficientnet", pretrained=False, dropout=0.7)
    net = model.build(cfg, 3)
    assert net.backbone.drop_rate == 0.7
    given = model.build(Config(**SMALL, backbone_args={"act_layer": "relu"}), 3)
    names = {type(module).__name__ for module in given.modules()}
    assert "ReLU" in names and "SiLU" not in names


def test_frozen_part_keeps_weights_and_statistics_through_training():
    net = model.build(Config(**SMALL), 3)
    net.freeze(0.5)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net.train()
    net(IMAGES).square().mean().backward()
    optimizer.step()
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    total = len(list(net.parameters()))
    assert total - len(trained) == int((total - 2) * 0.5)
    assert not any(name.startswith(("backbone.conv_stem", "backbone.bn1")) for name in changed)
    assert "backbone.classifier.weight" in changed
    statistics = {name.rsplit(".", 1)[0] for name in changed if "running_mean" in name}
    assert statistics and all(f"{name}.weight" in trained for name in statistics)


def test_all_but_the_head_can_be_frozen():
    net = model.build(Config(**SMALL), 3)
    net.freeze(1.0)
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {"backbone.classifier.weight", "backbone.classifier.bias"}


def donor(folder: Path) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors of a backbone without a head, and the file that holds them."""
    tensors = timm.create_model("test_efficientnet", num_classes=0).state_dict()
    save_file(tensors, folder / "weights.safetensors")
    return tensors, str(folder / "weights.safetensors")


def test_backbone_weights_come_from_a_file(tmp_path):
    tensors, path = donor(tmp_path)
    net = model.build(Config(backbone="test_efficientnet", weights=path), 4)
    for name, value in tensors.items():
        assert torch.equal(net.backbone.state_dict()[name], value), name


@pytest.mark.parametrize("name", ["weights.pth", "missing.safetensors"])
def test_weights_that_are_no_safetensors_file_are_refused(tmp_path, name):
    (tmp_path / "weights.pth").write_bytes(b"\x80\x04.")
    with pytest.raises(RunError, match=r"safetensors.*BONELIB_WEIGHTS"):
        model.build(Config(backbone="test_efficientnet", weights=str(tmp_path / name)), 3)


def test_weights_that_lack_a_tensor_are_an_error_not_random_ones(tmp_path):
    tensors, path = donor(tmp_path)
    lacking = next(name for name in tensors if name.endswith("conv_dw.weight"))
    save_file({name: tensors[name] for name in tensors if name != lacking}, path)
    with pytest.raises(RunError, match=lacking):
        model.build(Config(backbone="test_efficientnet", weights=path), 3)


def test_unreachable_hub_is_an_error_that_says_what_to_do(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(RunError, match=r"model hub \(OSError: offline\).*BONELIB_PRETRAINED=0"):
        model.build(Config(backbone="efficientnet_b3"), 3)


def test_unknown_backbone_is_an_error_that_names_similar_ones():
    with pytest.raises(ConfigError, match="efficientnet_b3"):
        model.build(Config(backbone="eficientnet_b3", pretrained=False), 3)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("EfficientNetB3", "efficientnet_b3"),
        ("EfficientNet-B3", "efficientnet_b3"),
        ("ResNet-50", "resnet50"),
        ("convnext tiny", "convnext_tiny"),
        ("ViT_Tiny_Patch16_224", "vit_tiny_patch16_224"),
        ("efficientnet_b3.ra_in1k", "efficientnet_b3.ra2_in1k"),
    ],
)
def test_names_are_suggested_without_regard_to_case_and_separators(written, meant):
    with pytest.raises(ConfigError, match=f"{meant}(,|$)"):
        model.build(Config(backbone=written, pretrained=False), 3)


def test_description_says_where_the_weights_come_from():
    assert "random" in model.describe_weights(Config(**SMALL))
    assert "ImageNet" in model.describe_weights(Config())
    assert "here.safetensors" in model.describe_weights(Config(weights="here.safetensors"))


@pytest.mark.parametrize(
    ("backbone", "is_imagenet", "licence"),
    [
        ("efficientnet_b3", True, "apache-2.0"),
        ("tf_efficientnetv2_s.in21k", True, "apache-2.0"),
        ("vit_base_patch16_clip_224.openai", False, "apache-2.0"),
        ("convnext_tiny.dinov3_lvd1689m", False, "dinov3-license"),
        ("regnety_320.seer", False, "seer-license"),
        ("hiera_tiny_224", True, "cc-by-nc-4.0"),
    ],
)
def test_description_names_the_licence_and_imagenet_only_where_it_was_used(
    backbone, is_imagenet, licence
):
    text = model.describe_weights(Config(backbone=backbone))
    assert ("ImageNet" in text) == is_imagenet and licence in text


@pytest.mark.parametrize("backbone", FAMILIES)
def test_backbones_of_other_families_are_frozen_trained_and_loaded(backbone, tmp_path):
    arguments = FAMILIES[backbone]
    fold = training_fold(
        tmp_path, backbone=backbone, backbone_args=arguments, image_size=64, freeze=0.3, epochs=1
    )
    fold = replace(fold, images=fold.images.repeat(2, 1).repeat(2, 2))
    loop.fit(fold)
    torch.manual_seed(fold.cfg.seed)
    net = model.build(fold.cfg, 3)
    before, loaded = net.state_dict(), model.load_model(tmp_path / "model")
    changed = {k for k, v in loaded.net.cpu().state_dict().items() if not torch.equal(v, before[k])}
    parameters = [name for name, _ in net.named_parameters()]
    head = [name for name in parameters if net.get_parameter(name).shape[0] == 3]
    frozen = [name for name in parameters if name not in head][: int(0.3 * (len(parameters) - 2))]
    assert not changed & set(frozen) and {parameters[-1]} <= changed
    path = tmp_path / "checkpoints" / "last" / "optimizer.pt"
    groups = torch.load(path, weights_only=True)["optimizer"]["param_groups"]
    spared = getattr(net.backbone, "no_weight_decay", set)()
    decayed = [
        name
        for name in set(parameters) - set(frozen)
        if net.get_parameter(name).ndim > 1 and name.removeprefix("backbone.") not in spared
    ]
    counts = {group["weight_decay"]: len(group["params"]) for group in groups}
    assert counts[fold.cfg.weight_decay] == len(decayed)


def test_distilled_model_with_two_heads_starts_at_chance_and_can_be_frozen():
    net = model.build(Config(backbone="levit_128s", pretrained=False, image_size=64), 3)
    net.freeze(1.0)
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in trained} == {"head", "head_dist"}
    assert (net.eval()(IMAGES).softmax(1) - 1 / 3).abs().max() < 0.1


@pytest.mark.parametrize(
    ("backbone", "image_size"),
    [("test_vit", 300), ("efficientformer_l1", 64), ("xcit_nano_12_p8_224", 100)],
)
def test_size_that_does_not_fit_is_an_error_that_names_sizes_that_do(backbone, image_size):
    settings = {"backbone": backbone, "pretrained": False}
    with pytest.raises(ConfigError, match=f"image_size = {image_size}") as error:
        model.build(Config(**settings, image_size=image_size), 3)
    sizes = str(error.value).split("choose one of ")[1].split(", ")
    for size in map(int, sizes):
        assert model.build(Config(**settings, image_size=size), 3)


def saved(folder: Path) -> tuple[model.Net, Path]:
    cfg = Config(
        **SMALL, mean=(0.4,), std=(0.3,), backbone_args={"pad_type": "same"}, image_size=64
    )
    net = model.build(cfg, 3)
    model.save_model(net, folder / "model", cfg, NAMES, epoch=3)
    return net, folder / "model"


def test_saved_model_predicts_the_same(tmp_path):
    net, folder = saved(tmp_path)
    model.amend_model(folder, temperature=1.5)
    loaded = model.load_model(folder)
    with torch.inference_mode():
        assert torch.equal(loaded.net(IMAGES.to(loaded.net.mean.device)).cpu(), net.eval()(IMAGES))
    assert loaded.class_names == NAMES and loaded.folder == folder
    assert (loaded.meta["epoch"], loaded.meta["temperature"]) == (3, 1.5)
    assert loaded.meta["image_size"] == 64 and loaded.meta["versions"]["timm"] == timm.__version__
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json"}


def test_digest_changes_with_the_weights_alone(tmp_path):
    _, folder = saved(tmp_path)
    before = model.model_digest(folder)
    model.amend_model(folder, temperature=2.0)
    assert model.model_digest(folder) == before
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / "model.safetensors")
    assert model.model_digest(folder) != before


def test_folder_without_a_model_says_what_to_run(tmp_path):
    with pytest.raises(RunError, match="03_train"):
        model.load_model(tmp_path)


def test_model_of_version_1_and_a_damaged_one_are_refused(tmp_path):
    _, folder = saved(tmp_path)
    path = folder / "config.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(meta | {"classes": meta.pop("class_names")}))
    with pytest.raises(RunError, match="class_names"):
        model.load_model(folder)
    _, folder = saved(tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    for damaged in (weights[: len(weights) // 2], pickle.dumps([1])):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(RunError, match=str(folder)):
            model.load_model(folder)


@pytest.mark.parametrize(
    "planted",
    [
        {"checkpoint_path": "evil.pth"},
        {"pretrained": True, "pretrained_cfg_overlay": {"file": "evil.pth"}},
        {"cache_dir": "evil"},
    ],
)
def test_backbone_args_cannot_name_a_file_to_unpickle(planted, tmp_path):
    _, folder = saved(tmp_path)
    with pytest.raises(ConfigError, match="setting weights"):
        model.build(Config(**SMALL, backbone_args=planted), 3)
    model.amend_model(folder, backbone_args=planted)
    with pytest.raises(RunError, match="setting weights"):
        model.load_model(folder)


@pytest.mark.parametrize("backbone", ["hf-hub:someone/evil", "local-dir:evil", "../evil"])
def test_model_config_cannot_fetch_an_architecture(backbone, tmp_path):
    _, folder = saved(tmp_path)
    model.amend_model(folder, backbone=backbone)
    with pytest.raises(RunError, match="unknown to timm"):
        model.load_model(folder)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tf_efficientnetv2_b0", {}),
        ("mobilenetv2_100", {"backbone_args": {"pad_type": "same"}, "mean": 0.5, "std": 0.5}),
    ],
)
def test_real_weights_fill_every_tensor_of_the_backbone(real, name, settings):
    path = real / "weights" / f"{name}.safetensors"
    numbers = {key: (v,) if isinstance(v, float) else v for key, v in settings.items()}
    net = model.build(Config(backbone=name, weights=str(path), **numbers), 3)
    known = load_file(path)
    for key, value in net.backbone.state_dict().items():
        if "classifier" not in key and "num_batches" not in key:
            assert torch.equal(value, known[key]), key
