"""Writes a fitted detector to one ONNX file, which needs no PyTorch.

    python predict.py --references normal/ --input parts/ --output results \\
        --precision fp32 --save-detector FILE
    python export.py --detector FILE --output part.onnx
    python inspect.pyz part.onnx parts/ --output results

inspect.pyz needs onnxruntime, numpy and pillow. The file holds image encoder, memory bank, heads, fusion,
threshold and the names of all settings (docs/deploy.md). It is compared with the detector before it takes its
name. The programs that run it are written with it: inspect.pyz, and serve.pyz over HTTP. Exit code 0 when
done, 2 on an error.
"""

from __future__ import annotations

if __name__ in ("__main__", "fdsl_commands.export"):  # before torch is imported: Ctrl-C is answered at once
    from utils import signals

    signals.answer()

import logging

from fdsl.flags.export_flags import parse
from utils.command import run_command

logger = logging.getLogger("fdsl")


def main(argv: list[str] | None = None) -> int:
    flags = parse(argv, __doc__)
    logger.info("loading the detector ...")
    from fdsl.api import AnomalyDetector
    from fdsl.export.export_detector import export_detector
    from fdsl.export.inspect_archive import PROGRAMS, write_archive
    from fdsl.export.onnx_file import require_packages

    require_packages()
    detector = AnomalyDetector.load(
        flags.detector, pretrained=flags.pretrained, model_config=flags.model_config, device=flags.device
    )
    written = export_detector(
        detector, flags.output, halved=flags.weights == "fp16", standard=flags.operators == "onnx"
    )
    tensors = f" and {written.tensors_file}, which belongs next to it" if written.tensors_file else ""
    logger.info(
        "wrote %s%s (%.1f MB); onnxruntime's maps and scores lie within %.0e of the detector's",
        flags.output,
        tensors,
        written.size / 1e6,
        max(written.gap, 1e-7),
    )
    for program in PROGRAMS:
        write_archive(flags.output.with_name(program))
    inspect, serve = (flags.output.with_name(program) for program in PROGRAMS)
    logger.info(
        "wrote %s and %s: copy one with the detector, then python %s %s PHOTOS --output DIR",
        inspect,
        serve.name,
        inspect.name,
        flags.output.name,
    )
    if detector.threshold is None:
        logger.info("the detector has no threshold: nothing is decided, only scored")
    return 0


def command() -> None:
    """The command line of export.py and of fdsl-export."""
    run_command(main)


if __name__ == "__main__":
    command()
