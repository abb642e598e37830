"""The model: a timm backbone that takes grey images; built, frozen, saved and loaded."""

import contextlib
import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import safetensors.torch
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bonelib.config import Config
from bonelib.messages import ConfigError, RunError
from bonelib.storage import atomic_folder, file_digest, read_json, text_digest, write_json
from bonelib.training.device import device


class Net(nn.Module):
    """Images (B, 1, S, S) uint8 -> logits (B, K).

    mean, std: (3, 1, 1), of the images that the backbone was trained on, in 0..255.
    """

    def __init__(self, backbone, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.mean = nn.Buffer(255 * torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.std = nn.Buffer(255 * torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.frozen_norms: list[nn.Module] = []
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # one grey channel becomes three here
        x = (images.float() - self.mean) / self.std  # (B, 3, S, S)
        return self.backbone(x.contiguous(memory_format=torch.channels_last))

    def freeze(self, share: float) -> None:
        """Stop the training of the first `share` of the backbone's parameter tensors.

        The statistics of their batch norms stay unchanged, too. The head is always trained.
        """
        body = list(_body(self.backbone).values())
        for parameter in body[: int(len(body) * share)]:
            parameter.requires_grad_(False)
        norms = [module for module in self.modules() if isinstance(module, _BatchNorm)]
        self.frozen_norms = [n for n in norms if n.affine and not n.weight.requires_grad]
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for norm in self.frozen_norms:
            norm.eval()
        return self


@dataclass(frozen=True)
class TrainedModel:
    """A model that is ready to predict, its config.json, and the folder of both."""

    net: Net
    meta: dict
    folder: Path

    @property
    def class_names(self) -> tuple:
        return tuple(self.meta["class_names"])


def build(cfg: Config, class_count: int) -> Net:
    """The model that `cfg` asks for, on the CPU.

    Raises RunError, instead of using random weights, if pretrained ones cannot be loaded.
    """
    _check_backbone(cfg.backbone, cfg.backbone_args)
    try:
        backbone = _create_backbone(cfg, class_count)
    # the model hub's client raises many types
    except Exception as error:
        _check_size(cfg)
        if not cfg.pretrained:
            raise
        raise RunError(
            f"the pretrained weights of {cfg.backbone} could not be loaded from "
            f"{cfg.weights or 'the model hub'} ({type(error).__name__}: {str(error)[:300]}). Give "
            "timm's .safetensors file of this model (BONELIB_WEIGHTS=path), or train from random "
            "weights (BONELIB_PRETRAINED=0), which needs far more images"
        ) from error
    # some of timm's heads start at large logits: start at chance
    for layer in _head(backbone).modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    known = backbone.pretrained_cfg
    return Net(backbone, cfg.mean or known["mean"], cfg.std or known["std"])


def describe_weights(cfg: Config) -> str:
    """The backbone, where the weights that training starts from come from, and their licence."""
    if not cfg.pretrained or cfg.weights:
        return f"{cfg.backbone} from {cfg.weights or 'random weights'}"
    tag, licence = (timm.get_pretrained_cfg_value(cfg.backbone, key) for key in ("tag", "license"))
    # in1k, in12k, in21k and in22k are sets of ImageNet
    name = "ImageNet weights" if re.search("in(1|12|21|22)k", tag or "") else "weights"
    return f"{cfg.backbone} from {name} of the model hub ({tag}), licence {licence or 'not given'}"


def save_model(net: Net, folder: Path, cfg: Config, class_names: tuple, **facts) -> None:
    """Write model.safetensors and config.json (with `facts`); the same weights stay calibrated."""
    meta: dict = {"class_names": class_names}
    meta |= {name: getattr(cfg, name) for name in ("backbone", "backbone_args", "image_size")}
    meta |= {"mean": (net.mean / 255).flatten().tolist(), "std": (net.std / 255).flatten().tolist()}
    meta["versions"] = {"torch": torch.__version__, "timm": timm.__version__}
    with atomic_folder(folder) as temporary:
        safetensors.torch.save_model(net, str(temporary / "model.safetensors"))
        with contextlib.suppress(OSError, ValueError):
            if model_digest(folder) == model_digest(temporary):
                meta = read_json(folder / "config.json") | meta
        write_json(temporary / "config.json", {"temperature": 1.0} | meta | facts)


def load_model(folder: Path) -> TrainedModel:
    """The model that `save_model` wrote, on the device and ready to predict."""
    try:
        meta = read_json(folder / "config.json")
        _check_backbone(meta["backbone"], meta["backbone_args"])
        arguments = meta["backbone_args"] | {"num_classes": len(meta["class_names"])}
        backbone = _timm_model(meta["backbone"], meta["image_size"], **arguments)
        net = Net(backbone, meta["mean"], meta["std"])
        safetensors.torch.load_model(net, folder / "model.safetensors")
    # a damaged or foreign file raises many types
    except Exception as error:
        raise RunError(f"{folder} holds no complete model: run 03_train ({error!r})") from error
    return TrainedModel(net.to(device()).eval(), meta, folder)


def amend_model(folder: Path, **facts) -> None:
    """Write `facts`, such as the temperature, into a saved model's config.json."""
    write_json(folder / "config.json", read_json(folder / "config.json") | facts)


def model_folders(run: Path) -> list[Path]:
    """The folders of a run's models: one, or one per fold; none before training."""
    folds = sorted(path.parent for path in run.glob("repeat-*-fold-*/model/config.json"))
    return folds or [path.parent for path in run.glob("model/config.json")]


def model_digest(*folders: Path) -> str:
    """A hash of the weights of saved models that predict together."""
    digests = [file_digest(folder / "model.safetensors")[:16] for folder in folders]
    return digests[0] if len(digests) == 1 else text_digest("".join(digests))


def _timm_model(backbone: str, image_size: int, **arguments):
    """timm's model for images of this size; one forward pass shows whether it fits."""
    if timm.get_pretrained_cfg_value(backbone, "fixed_input_size"):
        arguments = {"img_size": image_size, **arguments}
    model = timm.create_model(backbone, **arguments).eval()
    with torch.inference_mode():
        model(torch.zeros(1, 3, image_size, image_size))
    return model


def _create_backbone(cfg: Config, class_count: int):
    """timm's model; ValueError if a file lacks a tensor, which timm would leave random."""
    arguments = {"drop_rate": cfg.dropout, **cfg.backbone_args, "num_classes": class_count}
    arguments["pretrained_cfg_overlay"] = {"file": cfg.weights} if cfg.weights else None
    if cfg.weights and not cfg.weights.endswith(".safetensors"):
        raise ValueError("pickles are not read")
    backbone = _timm_model(cfg.backbone, cfg.image_size, pretrained=cfg.pretrained, **arguments)
    if cfg.weights:
        with safetensors.safe_open(cfg.weights, framework="pt") as tensors:
            missing = sorted(_body(backbone).keys() - set(tensors.keys()))
        if missing:
            raise ValueError(f"{len(missing)} tensors are missing, the first is {missing[0]}")
    return backbone


def _body(backbone) -> dict[str, nn.Parameter]:
    """The backbone's parameters by name, without those of its head."""
    head = {id(parameter) for parameter in _head(backbone).parameters()}
    return {name: p for name, p in backbone.named_parameters() if id(p) not in head}


def _head(backbone) -> nn.ModuleList:
    """The last layer, or the two of a distilled model."""
    head = backbone.get_classifier()
    return nn.ModuleList(head if isinstance(head, tuple) else [head])


def _check_size(cfg: Config) -> None:
    """ConfigError if images of this size do not fit the backbone; it names sizes that do."""
    below, fitting = cfg.image_size // 32 * 32, set()
    native = timm.get_pretrained_cfg_value(cfg.backbone, "input_size") or [224]
    for size in (cfg.image_size, below, below + 32, native[-1]):
        # each architecture raises another type
        with contextlib.suppress(Exception):
            _timm_model(cfg.backbone, size, **cfg.backbone_args)
            fitting.add(size)
    if fitting and cfg.image_size not in fitting:
        found = f"image_size = {cfg.image_size} (BONELIB_IMAGE_SIZE) does not fit {cfg.backbone}"
        raise ConfigError(f"{found}: choose one of {', '.join(map(str, sorted(fitting)))}")


def _check_backbone(backbone: str, arguments: dict) -> None:
    """ConfigError if timm has no such architecture, or if an argument names a file."""
    name, _, tag = backbone.partition(".")
    if not timm.is_model(name) or (tag and backbone not in timm.list_pretrained()):
        names = timm.list_models() + timm.list_pretrained()
        known = {re.sub("[^a-z0-9]", "", name): name for name in names}
        near = difflib.get_close_matches(re.sub("[^a-z0-9]", "", backbone.lower()), known, 5)
        similar = ", ".join(known[name] for name in near) or "none"
        raise ConfigError(f"backbone = {backbone!r}: unknown to timm; similar names: {similar}")
    # timm would unpickle such a file
    files = [name for name in arguments if name.startswith(("pretrained", "checkpoint", "cache"))]
    if files:
        raise ConfigError(f"backbone_args: {files[0]} is not allowed; use the setting weights")
