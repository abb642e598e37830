"""Where training runs, and in which precision."""

from __future__ import annotations

import pytest
import torch

from bonelib.config import Config
from bonelib.training import device as devices

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp16"), ((8, 0), "bf16")])
def test_gpus_train_and_predict_in_16_bits_that_they_have(capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    for training in (True, False):
        assert devices.precision(Config(), GPU, training) == expected


@pytest.mark.parametrize("bf16", [True, False])
def test_cpu_trains_in_32_bits_and_predicts_in_bf16_where_it_can(bf16, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert devices.precision(Config(), CPU, training=True) == "no"
    assert devices.precision(Config(), CPU) == ("bf16" if bf16 else "no")


def test_given_precision_is_used_everywhere():
    cfg = Config(precision="bf16")
    assert {devices.precision(cfg, d, t) for d in (CPU, GPU) for t in (True, False)} == {"bf16"}


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("no", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_autocast_computes_in_the_precision(precision, dtype):
    a = torch.ones(2, 2)
    with devices.autocast(precision, CPU):
        assert (a @ a).dtype == dtype


def test_each_training_in_one_process_has_its_own_precision():
    for name in ("bf16", "no", "bf16"):
        assert devices.start_accelerator(Config(precision=name)).mixed_precision == name


def test_one_process_is_the_main_one():
    state = devices.processes()
    assert state.num_processes == 1 and state.is_main_process
    assert devices.device().type == ("cuda" if torch.cuda.is_available() else "cpu")
