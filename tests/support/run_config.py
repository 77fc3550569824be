"""config.json of made-up finished runs."""

from fdsl.run_config import FittedConfig, PredictionConfig, RunConfig
from utils.config import BackboneConfig, MethodConfig, WindowConfig, as_stored


def a_config(seed: int, **changes) -> dict:
    """config.json of the paper's setting, MVTec AD, one shot; `changes` may reach into parts:
    windows__win_size."""
    config = {
        "dataset": "mvtec",
        "data_path": "data/mvtec",
        "meta": None,
        "model_name": "fdsl",
        "k_shot": 1,
        "seed": seed,
        "checkpoint": "checkpoints/fdsl/visa.safetensors",
        "checkpoint_digest": "ab" * 32,
        "trained_on": "visa",
        "command": f"python test.py --seed {seed}",
        "backbone": as_stored(BackboneConfig()),
        "method": as_stored(MethodConfig()),
        "windows": as_stored(WindowConfig()),
        "image_score": "paper",
        "metric_size": 240,
        "pictures": None,
        "machine": {"device": "cuda:0", "precision": "bfloat16", "torch": "2.7"},
    }
    for name, value in changes.items():
        part, _, inner = name.partition("__")
        config[part] = {**config[part], inner: value} if inner else value
    return config


def prediction_config() -> PredictionConfig:
    """config.json of a made-up run of predict.py."""
    fitted = FittedConfig(RunConfig.from_json(a_config(14)).detector, "max", fingerprint="ab", references=2)
    return PredictionConfig(fitted, "12", None, "python predict.py", "none", False, ("in",))
