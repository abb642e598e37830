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


def profile_of(data: str, smoke: bool) -> dict:
    """Values that replace the defaults."""
    return (SAMPLE_PROFILE if data == "sample" else {}) | (SMOKE_PROFILE if smoke else {})
