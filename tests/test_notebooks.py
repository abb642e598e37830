"""The notebooks have one form, show the machine learning, and agree with the package."""

from __future__ import annotations

import ast
from pathlib import Path

import jupytext
import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
# What each notebook must show in a cell, not only call through the package.
SHOWN = {
    "01_explore": [
        "barh(",
        'found.audit["clusters"]',
        "image_grid(",
        "draw_intervals(",
        "findings(",
    ],
    "02_balance": [
        *("train_test_split(", "StratifiedGroupKFold(", "RandomOverSampler(", "fit_resample("),
        *("A.Compose(", "affine_grid(", "grid_sample(", "class_weights("),
    ],
    "03_train": [
        *("timm.create_model(", "smoothed_targets(", "AdamW(", "CosineAnnealingWarmRestarts("),
        *("autocast(", "backward(", "unscale_(", "clip_grad_norm_(", "F.cross_entropy("),
    ],
    "04_evaluate": [
        *("softmax(", "minimize_scalar(", "quantile(", "autograd.grad(", "write_report("),
        *("roc_curve(", "write_review(", "evaluate_external("),
    ],
    "05_predict": ["answer_archive(", "heatmaps(", "to_onnx(", "serve("],
}


def cells(script: Path) -> list:
    return jupytext.read(script)["cells"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_notebook_opens_with_title_cost_setup_imports_and_settings(script):
    first, setup, imports, about, form = cells(script)[:5]
    assert first.source.startswith("# ") and f"notebooks/{script.stem}.ipynb" in first.source
    assert "This notebook" in first.source and "not for diagnosis" in first.source
    assert "two CPU cores" in first.source.replace("\n", " ")
    lines = [line for line in setup.source.splitlines() if line.strip()]
    assert lines[0] == "# @title Install bonelib" and len(lines) <= 10
    assert setup.metadata["cellView"] == form.metadata["cellView"] == "form"
    assert setup.source == cells(SCRIPTS[0])[1].source
    assert imports.source.startswith(("import ", "from ")) and about.source.startswith(
        "## Settings"
    )
    fields = [line for line in form.source.splitlines() if "# @param" in line]
    explained = [line for line in form.source.splitlines() if line.startswith("# @markdown")]
    assert form.source.startswith("# @title Settings") and 1 < len(fields) <= 8
    assert len(explained) == len(fields)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_notebook_shows_its_steps_in_short_lines_and_ends_with_exercises(script):
    found = cells(script)
    code = "\n".join(cell.source for cell in found if cell.cell_type == "code")
    assert 25 <= len(found) <= 45
    assert max(map(len, code.splitlines())) <= 88
    for call in SHOWN[script.stem]:
        assert call in code, call
    prose = "\n".join(cell.source for cell in found if cell.cell_type == "markdown")
    exercises = prose.split("## Exercises")[1].split("## Where to go from here")[0]
    assert [f"{number}. " in exercises for number in (1, 2, 3)] == [True] * 3


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_every_figure_is_followed_by_prose_that_reads_it(script):
    found = cells(script)
    for number, cell in enumerate(found):
        if cell.cell_type == "code" and "display.show(" in cell.source:
            following = [other.cell_type for other in found[number + 1 : number + 3]]
            assert "markdown" in following, cell.source


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_notebook_defines_no_class_and_no_long_block(script):
    for node in ast.walk(ast.parse(script.read_text())):
        assert not isinstance(node, ast.ClassDef)
        if isinstance(node, (ast.For, ast.While, ast.FunctionDef)):
            assert node.end_lineno - node.lineno < 12


def test_one_step_written_out_in_03_gives_the_weights_of_the_package(cfg):
    """The hand-written step of notebook 03, and a training of one batch by the package."""
    import dataclasses

    from bonelib import augment, pipeline, split
    from bonelib.training import checkpoint, loader, loop, loss, model

    fold = next(pipeline.folds(cfg))
    train = fold.splits[fold.splits["split"] == "train"]
    rows = train.groupby("label").head(2).index
    splits = fold.splits.assign(draws=0)
    splits.loc[rows, "draws"] = 1
    cfg = dataclasses.replace(cfg, epochs=1, batch_size=len(rows), ema=0.0, dropout=0.0, freeze=0.0)
    fold = dataclasses.replace(fold, cfg=cfg, splits=splits)
    loop.fit(fold)
    trained = model.load_model(fold.folder / "model").net.state_dict()

    names = fold.class_names
    draws = loader.Draws(splits["draws"].to_numpy(), cfg.batch_size, cfg.seed)
    policy, device = augment.policy(cfg), torch.device("cpu")
    batches = loader.training_batches(cfg, fold.images, fold.labels, draws, policy, device)
    images, labels = next(iter(batches))
    torch.manual_seed(cfg.seed)
    net = model.build(cfg, len(names))
    targets = loss.smoothed_targets(len(names), cfg.label_smoothing)
    weights = torch.from_numpy(split.class_weights(splits, cfg.balance, names))
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": others, "weight_decay": 0.0}, {"params": decayed}]
    optimizer = torch.optim.AdamW(groups, cfg.lr, weight_decay=cfg.weight_decay)
    net.train()
    value = loss.weighted_loss(net(images), targets[labels], weights)
    value.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), cfg.clip)
    optimizer.step()
    for name, tensor in net.state_dict().items():
        assert torch.allclose(tensor.float(), trained[name].float(), atol=1e-5), name
    assert checkpoint and np.isfinite(value.item())
