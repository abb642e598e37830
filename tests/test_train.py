"""Training repeats, resumes and refuses exactly."""

import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from bonelib import checkpoint, recipe, resume, split, train
from bonelib.config import CLASSES, Config
from bonelib.resume import ResumeError
from bonelib.train import DivergedError

RNG = np.random.default_rng(0)
N = 48


@pytest.fixture(scope="module")
def data():
    """Splits and (48, 32, 32) pictures whose brightness tells the class."""
    labels = [CLASSES[i % 3] for i in range(N)]
    rows = pd.DataFrame({"path": [f"{i}.png" for i in range(N)], "label": labels, "group": range(N)})
    rows = rows.assign(status="ok", issues="", group=rows["group"].astype(str))
    splits = split.split(rows, Config(test_size=0.25))
    level = splits["label"].map(CLASSES.index).to_numpy()[:, None, None]
    return splits, (40 + 70 * level + RNG.integers(0, 20, (N, 32, 32))).astype(np.uint8)


@pytest.fixture
def cfg(tmp_path):
    return Config(
        run=str(tmp_path / "run"), backbone="test_efficientnet", pretrained=False, freeze=0.0, image_size=32, batch_size=8,
        epochs=4, cycle=2, lr=5e-3, precision="no",
    )  # fmt: skip


def weights(cfg: Config) -> dict[str, torch.Tensor]:
    return load_file(cfg.root / "model" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


PATH = ["epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_f1"]


def test_every_artifact_is_left_and_the_history_is_complete(cfg, data):
    history = train.train(cfg, *data, cfg.root)
    assert list(history.columns) == [*PATH, "seconds", "images_per_second", "data_wait"] and len(history) == 4
    assert pd.read_csv(cfg.root / "history.csv")["epoch"].tolist() == [1, 2, 3, 4]
    assert {p.name for p in (cfg.root / "checkpoints").iterdir()} == {"last", "previous", "best"}
    best = history.sort_values(["val_accuracy", "val_loss"], ascending=[False, True])["epoch"].iloc[0]
    assert json.loads((cfg.root / "model" / "config.json").read_text())["epoch"] == best


def test_model_learns_what_can_be_learnt(cfg, data):
    history = train.train(dataclasses.replace(cfg, epochs=20, patience=20, ema=0.9, lr=1e-2), *data, cfg.root)
    assert history["val_accuracy"].max() >= 0.75 and history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_same_seed_gives_the_same_history_and_weights_whatever_the_workers(cfg, data):
    runs = [dataclasses.replace(cfg, run=f"{cfg.run}{w}", workers=w) for w in (0, 1, 4)]
    histories = [train.train(c, *data, c.root)[PATH] for c in runs]
    assert histories[0].equals(histories[1]) and histories[0].equals(histories[2])
    assert same(weights(runs[0]), weights(runs[1])) and same(weights(runs[0]), weights(runs[2]))


def test_another_seed_gives_another_history(cfg, data):
    other = dataclasses.replace(cfg, seed=1, run=cfg.run + "1")
    assert not train.train(cfg, *data, cfg.root)[PATH].equals(train.train(other, *data, other.root)[PATH])


class Cut(Exception):
    """Colab takes the machine away."""


def cut_after(epoch: int):
    def after_epoch(history):
        if len(history) == epoch:
            raise Cut

    return after_epoch


def test_interrupted_run_ends_in_the_same_weights(cfg, data):
    whole = train.train(cfg, *data, cfg.root)
    parts = dataclasses.replace(cfg, run=cfg.run + "-parts")
    for epoch in (1, 3):
        with pytest.raises(Cut):
            train.train(parts, *data, parts.root, cut_after(epoch))
    history = train.train(parts, *data, parts.root)
    assert history[PATH].equals(whole[PATH]) and same(weights(cfg), weights(parts))


def test_finished_training_returns_at_once_and_more_epochs_go_on(cfg, data):
    first = train.train(cfg, *data, cfg.root)
    assert train.train(cfg, *data, cfg.root).equals(first)
    longer = train.train(dataclasses.replace(cfg, epochs=6), *data, cfg.root)
    assert longer[:4].equals(first) and len(longer) == 6


@pytest.mark.parametrize(
    ("change", "named"), [({"lr": 1e-3}, "lr was 0.005, is 0.001"), ({"augment": ("hflip",)}, "augment was")]
)
def test_changed_setting_refuses_to_resume_and_names_the_difference(cfg, data, change, named):
    train.train(dataclasses.replace(cfg, epochs=1), *data, cfg.root)
    with pytest.raises(ResumeError, match=named):
        train.train(dataclasses.replace(cfg, **change), *data, cfg.root)
    anew = train.train(dataclasses.replace(cfg, **change, resume=False, epochs=1), *data, cfg.root)
    assert len(anew) == 1


def test_changed_data_refuse_to_resume(cfg, data):
    train.train(dataclasses.replace(cfg, epochs=1), *data, cfg.root)
    splits = data[0].assign(draws=data[0]["draws"] * 2)
    with pytest.raises(ResumeError, match="images or their splits"):
        train.train(cfg, splits, data[1], cfg.root)


def files_of_last(cfg: Config) -> list[str]:
    return ["ema.safetensors", "model.safetensors", "optimizer.pt", "state.json"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
@pytest.mark.parametrize("name", ["ema.safetensors", "model.safetensors", "optimizer.pt", "state.json"])
def test_damaged_checkpoint_is_skipped_for_the_one_before(cfg, data, name, damage, capsys):
    whole = train.train(cfg, *data, cfg.root)
    shutil.rmtree(cfg.root / "model")
    path = cfg.root / "checkpoints" / "last" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    history = train.train(cfg, *data, cfg.root)
    assert "is not whole" in capsys.readouterr().out and history[PATH].equals(whole[PATH])


def test_kill_before_the_best_epoch_is_kept_changes_nothing(cfg, data, monkeypatch):
    whole = train.train(cfg, *data, cfg.root)
    parts = dataclasses.replace(cfg, run=cfg.run + "-parts")

    def cut(path):
        raise Cut

    while not (parts.root / "model").exists():  # `last` is written, `best` is not
        with monkeypatch.context() as patched, contextlib.suppress(Cut):
            patched.setattr(checkpoint, "keep_best", cut)
            train.train(parts, *data, parts.root)
        with contextlib.suppress(Cut):
            done = len(pd.read_csv(parts.root / "history.csv")) if (parts.root / "history.csv").exists() else 0
            train.train(parts, *data, parts.root, cut_after(done + 1))
    assert whole["epoch"].max() == 4 and same(weights(cfg), weights(parts))


@pytest.mark.parametrize("damage", [lambda f: f.write_bytes(b"x"), lambda f: f.unlink()])
def test_damaged_best_weights_are_an_error_and_never_a_model(cfg, data, damage):
    history = train.train(cfg, *data, cfg.root)
    epoch = history.sort_values(["val_accuracy", "val_loss"], ascending=[False, True])["epoch"].iloc[0]
    assert same(resume.best(cfg.root, epoch), weights(cfg))
    damage(cfg.root / "checkpoints" / "best" / "weights.safetensors")
    with pytest.raises(ResumeError, match="expected the weights of epoch"):
        resume.best(cfg.root, epoch)


def test_early_stopping_waits_for_accuracy_then_for_loss():
    row = {"epoch": 3, "val_accuracy": 0.5, "val_loss": 1.0}
    assert train._is_better(row | {"val_loss": 0.9}, row) and not train._is_better(row | {"val_loss": 1.1}, row)
    assert train._is_better(row | {"val_accuracy": 0.6, "val_loss": 9.0}, row)
    assert not train._stopped({"epoch": 7, "best": row}, 5) and train._stopped({"epoch": 8, "best": row}, 5)


def test_training_stops_when_validation_no_longer_gains(cfg, data):
    patient = dataclasses.replace(cfg, epochs=60, patience=2, ema=0.0)
    assert len(train.train(patient, *data, cfg.root)) < 60


def test_loss_that_is_no_number_is_an_error(cfg, data, monkeypatch):
    monkeypatch.setattr(train.F, "cross_entropy", lambda out, *a, **k: out.sum(1) * float("nan"))
    with pytest.raises(DivergedError, match="lower lr"):
        train.train(cfg, *data, cfg.root)


def test_weight_decay_spares_norms_and_biases(cfg):
    from bonelib import model

    net = model.build(cfg)
    spared, decayed = recipe.parameter_groups(net, dataclasses.replace(cfg, freeze=0.5))
    assert decayed["weight_decay"] > 0 == spared["weight_decay"]
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim <= 1 for p in spared["params"])
    assert all(p.requires_grad for g in (decayed, spared) for p in g["params"])


def test_kill_between_renames_leaves_a_whole_checkpoint(tmp_path):
    for epoch in (1, 2):
        checkpoint.save(tmp_path, {"model": {"w": torch.ones(2) * epoch}}, {}, {"epoch": epoch})
    (tmp_path / "last").rename(tmp_path / "incoming")  # killed after last became previous
    found, torn = checkpoint.newest(tmp_path)
    assert found == tmp_path / "incoming" and checkpoint.read_state(found)["epoch"] == 2 and not torn
