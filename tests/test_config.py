"""Settings are checked where they enter."""

import pytest

from bonelib.config import CLASSES, Config, ConfigError


def test_environment_and_form_are_read_by_type_and_the_form_wins():
    env = {"BONELIB_EPOCHS": "7", "BONELIB_LR": "0.01", "BONELIB_RESUME": "no", "BONELIB_MEAN": "0.5", "HOME": "/"}
    cfg = Config.load(env, epochs="9", batch_size="", classes='{"dense": "Normal"}')
    assert (cfg.epochs, cfg.lr, cfg.resume, cfg.mean) == (9, 0.01, False, (0.5,))
    assert cfg.classes == {"dense": "Normal"}


@pytest.mark.parametrize(
    ("name", "value", "found", "allowed"),
    [
        ("EPOCS", "3", "3", "epochs"),
        ("EPOCHS", "many", "many", "number"),
        ("EPOCHS", "0", "0", "1 to"),
        ("BALANCE", "twice", "twice", "oversample, weights, both, none"),
        ("AUGMENT", "hflip,shear", "shear", "vflip"),
        ("CLASSES", '{"a": "Fine"}', "Fine", "Osteopenia"),
        ("CLASSES", "a=Normal", "a=Normal", "JSON"),
        ("PRETRAINED", "maybe", "maybe", "1 or 0"),
        ("FOLDS", "2", "2", "at least 3"),
        ("STD", "0,0,0", "0.0", "not all 0"),
        ("PREVALENCE", "0.5,0.5", "0.5", "3 numbers"),
        ("TTA", "identity,upside down", "upside down", "mirror"),
    ],
)
def test_impossible_setting_names_field_value_and_what_is_allowed(name, value, found, allowed):
    with pytest.raises(ConfigError) as error:
        Config.load({f"BONELIB_{name}": value})
    message = str(error.value)
    assert name.lower() in message and found in message and allowed in message


def test_settings_survive_json():
    cfg = Config.load({}, classes={"a": CLASSES[0]}, mean="0.1,0.2,0.3", backbone_args='{"pad_type": "same"}')
    assert Config.from_json(cfg.json()) == cfg


def test_nothing_is_frozen_where_nothing_was_learnt():
    assert Config.load({}, data="x").freeze == 0.5
    assert Config.load({}, data="x", pretrained="0").freeze == 0
    assert Config.load({}).freeze == 0, "the sample trains from scratch"
    assert Config.load({}, weights="some.safetensors").freeze == 0.5
