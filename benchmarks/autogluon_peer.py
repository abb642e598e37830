"""AutoGluon's part of bench_peers.py, in an environment of its own, without bonelib.

python benchmarks/autogluon_peer.py FOLDER BACKBONE WEIGHTS BATCH EPOCHS SEED

Reads files.csv (file, label, split) in the folder, and writes predictions.csv there: one column per
class, one row per test file.
"""

import sys
from pathlib import Path

import pandas as pd
from autogluon.multimodal import MultiModalPredictor
from autogluon.multimodal.models import timm_image

folder, backbone, weights, batch, epochs, seed = sys.argv[1:]
create_model = timm_image.create_model


def from_file(*arguments, **options):
    """timm's model with the weights of the local file in place of the model hub's."""
    if weights and options.get("pretrained"):
        options["pretrained_cfg_overlay"] = {"file": weights}
    return create_model(*arguments, **options)


timm_image.create_model = from_file
files = pd.read_csv(Path(folder, "files.csv"), dtype={"label": str})[["file", "label", "split"]]
known = {name: rows.drop(columns="split") for name, rows in files.groupby("split")}
predictor = MultiModalPredictor("label", problem_type="multiclass", path=f"{folder}/model")
settings = {
    "model.names": ["timm_image"],
    "model.timm_image.checkpoint_name": backbone,
    "optim.max_epochs": int(epochs),
    "env.batch_size": int(batch),
    "env.per_gpu_batch_size": int(batch),
    "env.num_workers": 0,
    "env.num_workers_inference": 0,
    "env.num_gpus": 0,
}
options = {"hyperparameters": settings, "seed": int(seed), "tuning_data": known["val"]}
predictor.fit(known["train"], **options)
predictor.predict_proba(known["test"]).to_csv(Path(folder, "predictions.csv"), index=False)
