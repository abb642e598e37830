"""Backbone and head: build, freeze, run, save and load."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from accelerate import PartialState
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.layers import convert_sync_batchnorm
from timm.models.efficientnet import SqueezeExcite
from torch import nn

from bonelib import artifact, fusion
from bonelib.config import CLASSES, Config, ConfigError


class WeightsError(RuntimeError):
    """Pretrained weights that cannot be had, or do not fit; the message says how to go on."""


class Excite(SqueezeExcite):
    """timm's squeeze-and-excitation, its mean taken by pooling on a CPU: bf16 prediction of B3 is a quarter faster."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, C, h, w)
        mean = F.avg_pool2d(x, x.shape[2:]) if x.is_cpu else x.mean((2, 3), keepdim=True)
        weight: torch.Tensor = self.gate(self.conv_expand(self.act1(self.conv_reduce(mean))))
        return x * weight


class Net(nn.Module):
    """A timm backbone that takes grey radiographs: (B, 1, S, S) uint8 -> logits (B, 3)."""

    backbone: Any  # what timm's models have beyond nn.Module is in no type
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.frozen_norms: list[nn.Module] = []
        for module in backbone.modules():
            if type(module) is SqueezeExcite:
                module.__class__ = Excite  # the same weights under the same names

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        x = (pictures.float() - self.mean) / self.std  # (B, 3, S, S): one grey channel becomes three here
        out: torch.Tensor = self.backbone(x.contiguous(memory_format=torch.channels_last))
        return out

    def freeze(self, share: float) -> None:
        """Fix the first `share` of the backbone's parameter tensors, and the statistics of their batch norms."""
        head = {id(p) for p in self.backbone.get_classifier().parameters()}
        body = [p for p in self.backbone.parameters() if id(p) not in head]
        for i, p in enumerate(body):
            p.requires_grad_(i >= int(len(body) * share))
        norms = [m for m in self.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.frozen_norms = [m for m in norms if m.weight is not None and not m.weight.requires_grad]
        self.train(self.training)

    def train(self, mode: bool = True) -> Net:
        super().train(mode)
        for norm in self.frozen_norms:
            norm.eval()
        return self


def build(cfg: Config) -> Net:
    """The model that `cfg` asks for; WeightsError rather than random weights where pretrained ones were asked for."""
    overlay: dict[str, Any] = {}
    if cfg.weights:
        if Path(cfg.weights).suffix != ".safetensors" or not Path(cfg.weights).is_file():
            raise WeightsError(
                f"weights = {cfg.weights!r}: expected an existing .safetensors file (pickles are not read)"
            )
        overlay["file"] = cfg.weights
    overlay |= {k: v * 3 if len(v) == 1 else v for k in ("mean", "std") if (v := getattr(cfg, k))}
    make = {"num_classes": len(CLASSES), "drop_rate": cfg.dropout, **cfg.backbone_args}
    _check_name(cfg.backbone, cfg.backbone_args)
    try:
        net: Any = timm.create_model(
            cfg.backbone, pretrained=cfg.pretrained, pretrained_cfg_overlay=overlay or None, **make
        )
    except Exception as error:  # the hub's client raises many kinds
        if not cfg.pretrained:
            raise
        raise WeightsError(
            f"the pretrained weights of {cfg.backbone} could not be loaded from {cfg.weights or 'the model hub'} "
            f"({type(error).__name__}: {str(error)[:300]}). Give a file (BONELIB_WEIGHTS=path/to.safetensors), or train "
            "from random weights (BONELIB_PRETRAINED=0), which needs far more images"
        ) from error
    if cfg.weights:
        _check_fit(net, cfg.weights)
    if isinstance(head := net.get_classifier(), nn.Linear):  # some of timm's start at large logits: start at chance
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
    given = net.pretrained_cfg
    mean, std = tuple(overlay.get("mean", given["mean"])), tuple(overlay.get("std", given["std"]))
    return Net(net, mean, std).to(memory_format=torch.channels_last)


def _check_name(backbone: str, args: dict[str, Any]) -> None:
    """ConfigError if timm has no such architecture, or if its arguments name a file: timm would unpickle that."""
    if not timm.is_model(backbone.split(".")[0]):
        near = timm.list_models(f"*{backbone[:12]}*")[:5]
        raise ConfigError(f"backbone = {backbone!r}: timm knows no such model; near it: {', '.join(near) or 'none'}")
    if files := sorted(a for a in args if a.startswith(("pretrained", "checkpoint", "cache"))):
        raise ConfigError(f"backbone_args: {', '.join(files)} cannot be given; weights come from the setting weights")


def _check_fit(net: Any, weights: str) -> None:
    """timm passes over what a file lacks; here every tensor of the backbone must come from it."""
    head = {id(p) for p in net.get_classifier().parameters()}
    wanted = {name for name, p in net.named_parameters() if id(p) not in head}
    with safe_open(weights, framework="pt") as file:
        missing = sorted(wanted - set(file.keys()))
    if missing:
        raise WeightsError(
            f"weights = {weights!r} lacks {len(missing)} of the backbone's {len(wanted)} tensors, the first {missing[0]!r}; "
            "expected a file of this very model in timm's names: check BONELIB_BACKBONE and BONELIB_WEIGHTS"
        )


def describe(cfg: Config) -> str:
    """Where the weights start from, in words."""
    if cfg.pretrained:
        return (
            f"{cfg.backbone} from {'the file ' + cfg.weights if cfg.weights else 'ImageNet weights of the model hub'}"
        )
    return f"{cfg.backbone} from random weights (nothing pretrained)"


def sync_norms(net: Net, say: Callable[[str], None] = print) -> Net:
    """Batch norms that take their statistics from all processes' shares of a batch; torch has them for GPUs only."""
    if torch.cuda.is_available():
        net.backbone = convert_sync_batchnorm(net.backbone)
    elif any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules()):
        say("on CPUs each process normalises its own share of a batch: results differ a little from one process")
    return net


def processes() -> PartialState:
    """This process among those that torchrun has started; on CPUs accelerate finds the others only if it is told.

    The first may audit or decode for hours before the others go on.
    """
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))


def device() -> torch.device:
    """The GPU; or the CPU, whose memory is then kept between steps."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    _keep_memory()
    return torch.device("cpu")


@functools.cache
def _keep_memory() -> None:
    """Have glibc keep what is freed, or the kernel clears every activation's pages anew, again and again.

    EfficientNet-B3, 30 pictures of 300 px at once on two cores: 34 images/s against 21 in bfloat16, 24 against 10 in float32.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block is mapped, and given back, by itself
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def precision(cfg: Config, on: torch.device, learning: bool = False) -> str:
    """`bf16` where the hardware has it, `fp16` on older GPUs such as the T4, else `no`.

    On a CPU bf16 makes prediction the faster and learning the slower: 224 px, half frozen, 17 images/s against 18 in float32.
    """
    if cfg.precision != "auto":
        return cfg.precision
    if on.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(on)[0] >= 8 else "fp16"
    if learning:
        return "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"


def autocast(kind: str, on: torch.device) -> contextlib.AbstractContextManager[Any]:
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(kind)
    return torch.autocast(on.type, dtype) if dtype else contextlib.nullcontext()


@torch.inference_mode()
def logits(net: nn.Module, batches: Iterable[torch.Tensor], kind: str, on: torch.device) -> NDArray[np.float32]:
    """(N, 3) float32: the logits of every picture in `batches` of (B, 1, S, S) uint8, dropout off."""
    net.eval()
    with autocast(kind, on):
        out = [net(pictures.to(on, non_blocking=True)).float().cpu() for pictures in batches]
    return torch.cat(out).numpy() if out else np.zeros((0, len(CLASSES)), np.float32)


def save(net: Net, folder: Path, cfg: Config, **facts: Any) -> None:
    """`model.safetensors` and `config.json`: all that prediction needs, and `facts`."""
    with artifact.whole(folder / "model.safetensors") as aside:
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, aside)
    meta = {
        "classes": CLASSES, "backbone": cfg.backbone, "backbone_args": cfg.backbone_args, "image_size": cfg.image_size,
        "mean": (net.mean / 255).flatten().tolist(), "std": (net.std / 255).flatten().tolist(), "temperature": 1.0,
        "versions": {"torch": torch.__version__, "timm": timm.__version__}, **facts,
    }  # fmt: skip
    artifact.write(folder / "config.json", json.dumps(meta, indent=2))


def amend(folder: Path, **facts: Any) -> None:
    """Write `facts`, such as the temperature that validation gave, into a saved model's config.json."""
    path = folder / "config.json"
    artifact.write(path, json.dumps(json.loads(path.read_text()) | facts, indent=2))


def digest(folder: Path) -> str:
    """A hash of a saved model's weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]


def load(folder: Path) -> tuple[Net, dict[str, Any]]:
    """The model that `save` left, ready to predict, and its config.json."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no trained model (config.json); run 03_train first")
    meta = json.loads(path.read_text())
    _check_name(meta["backbone"], meta["backbone_args"])
    backbone = timm.create_model(meta["backbone"], num_classes=len(meta["classes"]), **meta["backbone_args"])
    net = Net(backbone, tuple(meta["mean"]), tuple(meta["std"])).to(memory_format=torch.channels_last)
    net.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return fusion.folded(net, meta["image_size"]), meta
