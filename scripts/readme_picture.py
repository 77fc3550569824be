"""The README's first picture: crops of one photograph, of which two are the references.

    python scripts/readme_picture.py PHOTOGRAPH --model NAME --pretrained FILE --layers ... --image-size N

PHOTOGRAPH is usr/share/wallpapers/OneStandsOut/contents/images/2560x1600.jpg of Debian's package
plasma-workspace-wallpapers 5.27.5 (`apt-get download`, `dpkg -x`): "One Stands Out" by Risto Saukonpää,
LGPL-3. The crops do not overlap. Writes docs/images/moss.jpg.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

if __name__ == "__main__":  # run as a script: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from fdsl import AnomalyDetector
from fdsl.flags.groups import add_options
from fdsl.report.drawing import PANEL_GAP, resize, strip
from utils.config import BackboneConfig

PICTURE = Path(__file__).resolve().parents[1] / "docs/images/moss.jpg"
CROP, SHOWN, NAMED = 600, 360, 390  # pixels: a crop, its panel, a panel with its name
REFERENCES = [(40, 40), (700, 40)]  # left, top
INSPECTED = [(1360, 500), (1960, 60)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photograph", type=Path)
    parser.add_argument("--output", type=Path, default=PICTURE)
    add_options(parser, BackboneConfig)
    flags = vars(parser.parse_args())
    photograph, output = Image.open(flags.pop("photograph")).convert("RGB"), flags.pop("output")
    references, inspected = (
        [photograph.crop((left, top, left + CROP, top + CROP)) for left, top in places]
        for places in (REFERENCES, INSPECTED)
    )
    given = {name: value for name, value in flags.items() if value is not None}
    detector = AnomalyDetector.from_backbone(**given, device="cpu", precision="fp32")
    detector.fit(references)
    rows = []
    for number, (reference, photo) in enumerate(zip(references, inspected), 1):
        prediction = detector.predict(photo)
        heated = prediction.picture(photo, "")[:CROP, CROP + PANEL_GAP :]
        panels = [resize(np.asarray(one), SHOWN, SHOWN) for one in (reference, photo, heated)]
        verdict = "anomalous" if prediction.is_anomalous else "normal"
        names = (
            f"reference {number} of {len(references)}",
            f"photograph: {verdict}, score {prediction.score:.3f}",
            f"heat map; threshold {prediction.threshold:.3f}",
        )
        rows.append(strip(panels, names, "")[:NAMED])
    Image.fromarray(np.concatenate(rows)).save(output, quality=80)


if __name__ == "__main__":
    main()
