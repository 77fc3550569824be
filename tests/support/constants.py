"""Where the project and the real photographs lie, and the backbones that the tests run."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
REAL_BACKBONE = {
    "model": "DeiT-Ti-16",
    "layers": (3, 6, 9, 12),
    "image_size": 448,
    "pretrained": str(SHARED / "weights" / "DeiT-Ti-16-in1k.safetensors"),
    "model_config": str(SHARED / "weights" / "open_clip_configs"),
}
