"""What the embedded sample, random weights and a smoke run change in the default settings."""

# What differs from the defaults without pretrained weights, on the embedded sample, and in CI.
SCRATCH_PROFILE: dict = {"lr": 2e-3, "freeze": 0.0}
SAMPLE_PROFILE: dict = {
    "pretrained": False,
    "image_size": 96,
    "epochs": 18,
    "cycle": 18,
    "ema": 0.95,
    "dropout": 0.1,
    "augment": ("hflip", "shift_scale_rotate", "brightness_contrast"),
}
SMOKE_PROFILE: dict = {
    "pretrained": False,
    "image_size": 64,
    "batch_size": 8,
    "epochs": 2,
    "cycle": 1,
    "resamples": 50,
}


def profile_of(data: str, smoke: bool, pretrained: bool | None) -> dict:
    """Values that replace the defaults; pretrained: None if the user did not say."""
    profile = dict(SAMPLE_PROFILE) if data == "sample" else {}
    if smoke:
        profile |= SMOKE_PROFILE
    if not (profile.get("pretrained", True) if pretrained is None else pretrained):
        profile |= SCRATCH_PROFILE
    return profile
