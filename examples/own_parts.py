"""Your own parts, step by step: from a few photographs of good gears to decisions about new ones.

    python examples/own_parts.py [OUTPUT]

Reads like a notebook: every `# %%` is a cell in editors that know them. It draws its own photographs
(data/demo.py) and uses a small UNTRAINED backbone, so that nothing is downloaded; for real parts leave the
`backbone` arguments out and CLIP's weights are fetched. Takes about a minute on two cores.
"""

# %% Photographs: a few good gears to learn from, and some that nobody has looked at yet
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from data.demo import write_demo  # noqa: E402
from fdsl.api import AnomalyDetector  # noqa: E402

output = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "results" / "own_parts"
write_demo(ROOT / "data" / "demo")
gear = ROOT / "data" / "demo" / "mvtec" / "gear"
references = sorted((gear / "train" / "good").glob("*.png"))[:4]
unseen = sorted((gear / "test").glob("*/*.png"))

# %% A detector that has seen four good gears
backbone = {
    "model": "ViT-demo",
    "model_config": str(ROOT / "configs"),
    "pretrained": "none",
    "layers": (1, 2),
    "image_size": 256,
}
detector = AnomalyDetector.from_backbone(**backbone)
detector.remember(references, false_alarm_rate=0.05)
print(f"threshold {detector.threshold.score:.4f}: {detector.threshold.source}")

# %% What it says of the others
predictions = detector.predict(unseen)
for path, found in sorted(zip(unseen, predictions), key=lambda pair: -pair[1].score)[:8]:
    where = ", ".join(f"{box.width}x{box.height} px at ({box.x}, {box.y})" for box in found.boxes[:2])
    verdict = "ANOMALOUS" if found.is_anomalous else "normal   "
    print(f"{found.score:.4f}  {verdict}  {path.parent.name}/{path.name}  {where}")

# %% How often it was right: only because the drawn gears come with the truth
truth = np.array([path.parent.name != "good" for path in unseen])
called = np.array([found.is_anomalous for found in predictions])
caught, alarms = (called & truth).sum(), (called & ~truth).sum()
print(f"defects caught: {caught} of {truth.sum()}; false alarms: {alarms} of {(~truth).sum()}")

# %% One photograph from memory, and its map at the photograph's own size
photo = np.asarray(Image.open(unseen[0]).convert("RGB"))
found = detector.predict(photo)
highest = found.anomaly_map.max()
print(f"map {found.anomaly_map.shape} for a photograph {photo.shape[:2]}, highest value {highest:.4f}")

# %% Fit once, use many times: one file with everything, the same scores to the last bit
file = output / "gear.safetensors"
detector.save(file)
again = AnomalyDetector.load(file)
assert again.predict(photo).score == found.score
print(f"saved {file}; also: python predict.py --detector {file} --input ...")
