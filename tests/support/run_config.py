"""Stored settings of made-up runs and trainings."""

from fdsl.config.run_config import FittedConfig, PredictionConfig, RunConfig
from fdsl.config.training_config import TrainedWith, TrainingSettings
from utils.config import BackboneConfig, MethodConfig, WindowConfig
from utils.options import as_stored, from_stored

MACHINE = {
    "device": "cuda:0",
    "device_name": "NVIDIA H200",
    "precision": "bfloat16",
    "torch": "2.7.1",
    "python": "3.12.3",
    "system": "Linux-6.1",
    "precision_asked": None,
}


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
        "rotations": 1,
        "method": "fdsl",
        "checkpoint": "checkpoints/fdsl/visa.safetensors",
        "checkpoint_digest": "ab" * 32,
        "trained_on": "visa",
        "trained_on_test_images": None,
        "weights": None,
        "files": None,
        "grey": None,
        "command": f"python test.py --seed {seed}",
        "backbone": as_stored(BackboneConfig()),
        "options": as_stored(MethodConfig()),
        "windows": as_stored(WindowConfig()),
        "image_score": "paper",
        "metric_size": 240,
        "pictures": None,
        "machine": dict(MACHINE),
    }
    for name, value in changes.items():
        part, _, inner = name.partition("__")
        config[part] = {**config[part], inner: value} if inner else value
    return config


def prediction_config() -> PredictionConfig:
    """config.json of a made-up run of predict.py."""
    fitted = FittedConfig(
        from_stored(RunConfig, a_config(14)).detector, "max", fingerprint="ab", references=2
    )
    return PredictionConfig(fitted, "12", None, "python predict.py", "none", False, ("in",))


def trained_with() -> dict:
    """What a checkpoint of two small heads says of itself."""
    return {
        "backbone": as_stored(BackboneConfig("m", "p", None, (1, 2), 32)),
        "options": as_stored(MethodConfig()),
        "fingerprint": "ab",
        "dataset": "visa",
        "training": {
            "epochs": 2,
            "k_shot": 10,
            "batch_size": 8,
            "learning_rate": 0.001,
            "augmentation": "crop",
            "seed": 111,
            "image_digests": "cd",
            "files": "ef",
            "images": {"cup": 7, "can": 3},
            "machine": {**MACHINE, "device": "cpu", "device_name": None, "precision": "float32"},
        },
    }


def heads_of(backbone: BackboneConfig, options: MethodConfig, fingerprint: str, dataset: str) -> TrainedWith:
    """What heads say that were trained on this backbone, all else made up."""
    training = from_stored(TrainingSettings, trained_with()["training"])
    return TrainedWith(
        backbone=backbone, options=options, fingerprint=fingerprint, dataset=dataset, training=training
    )
