"""Settings are checked where they enter."""

import dataclasses
import json

import pytest

from bonelib.config import Config, present_classes
from bonelib.messages import ConfigError


def test_environment_and_form_are_read_by_type_and_the_form_wins():
    env = {
        "BONELIB_EPOCHS": "7",
        "BONELIB_LR": "0.01",
        "BONELIB_RESUME": "no",
        "BONELIB_MEAN": "0.5",
        "HOME": "/",
    }
    cfg = Config.load(env, epochs="9", batch_size="", classes='{"dense": "Normal"}')
    assert (cfg.epochs, cfg.lr, cfg.resume, cfg.mean) == (9, 0.01, False, (0.5, 0.5, 0.5))
    assert cfg.classes == {"dense": "Normal"}


@pytest.mark.parametrize(
    ("name", "value", "found", "allowed"),
    [
        ("EPOCS", "3", "epocs", "epochs"),
        ("EPOCHS", "many", "many", "integer"),
        ("EPOCHS", "0", "0", "1"),
        ("BALANCE", "twice", "twice", "oversample"),
        ("AUGMENT", "hflip,shear", "shear", "vflip"),
        ("CLASSES", '{"a": "Fine"}', "Fine", "Osteopenia"),
        ("CLASSES", "a=Normal", "a=Normal", "JSON"),
        ("PRETRAINED", "maybe", "maybe", "boolean"),
        ("FOLDS", "2", "2", "at least 3"),
        ("STD", "0,0,0", "0", "greater"),
        ("PREVALENCE", "0.5", "0.5", "2 to 3 numbers"),
        ("TTA", "identity,upside down", "upside down", "mirror"),
        ("TTA", "none", "()", "1 item"),
        ("LR", "nan", "nan", "1"),
        ("CLASS_NAMES", "one", "one", "two"),
        ("PATIENT_REGEX", "(", "(", "position 0"),
    ],
)
def test_impossible_setting_names_field_value_and_what_is_allowed(name, value, found, allowed):
    with pytest.raises(ConfigError) as error:
        Config.load({f"BONELIB_{name}": value})
    message = str(error.value)
    assert name.lower() in message and found in message and allowed in message


def test_form_wins_over_environment_over_saved_values_over_profile():
    saved = {"epochs": 5, "batch_size": "4", "image_size": "64"}
    cfg = Config.load({"BONELIB_EPOCHS": "6", "BONELIB_BATCH_SIZE": "8"}, saved, epochs="7")
    assert (cfg.epochs, cfg.batch_size, cfg.image_size, cfg.ema) == (7, 8, 64, 0.95)


def test_given_values_are_kept_as_given_and_load_the_same_settings_again():
    form = {"data": "MyDrive/bones", "run": "runs/a", "classes": '{"a": "Normal"}', "std": "0.5"}
    cfg = Config.load({"BONELIB_SEED": "3"}, **form)
    assert cfg.given == {k: v for k, v in form.items() if k != "run"} | {"seed": "3"}
    assert Config.load({}, json.loads(json.dumps(cfg.given)), run="runs/a") == cfg
    local = dataclasses.replace(cfg, data="/tmp/local")
    assert local.given == cfg.given and local.data == "/tmp/local"


def test_the_tests_own_variable_is_no_setting():
    assert Config.load({"BONELIB_REAL": "somewhere"}) == Config.load({})


def test_none_is_an_empty_list_alone_and_a_name_among_others():
    assert Config.load({}, augment="none").augment == ()
    names = Config.load({}, class_names="none, mild, severe").class_names
    assert names == ("none", "mild", "severe")


def test_present_classes_keep_the_order_of_the_class_names():
    assert present_classes(Config(), ["Osteoporosis", "Normal"]) == ("Normal", "Osteoporosis")
    cfg = Config.load({}, class_names="grade 0,grade 1")
    assert present_classes(cfg, ["grade 1", "grade 0", "grade 1"]) == ("grade 0", "grade 1")


def test_nothing_is_frozen_without_pretrained_weights():
    assert Config.load({}, data="x").freeze == 0.5
    assert Config.load({}, data="x", pretrained="0").freeze == 0
    assert Config.load({}).freeze == 0, "the sample trains from scratch"
    assert Config.load({}, weights="some.safetensors").freeze == 0.5
    assert Config.load({}, pretrained="1").freeze == 0.5, "asked for, even on the sample"
