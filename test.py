"""Evaluates a checkpoint on a dataset, with every ablation.

    python test.py --dataset mvtec --data-path data/mvtec --k-shot 1 --seed 14
    python test.py --from-maps results/fdsl/mvtec/1shot/seed14/mul_13_2_0.5 \\
        --win-weight 0.3

By default the heads are those trained on the other dataset. Writes results/MODEL/DATASET/Kshot/seedS/RUN/. A
run that was interrupted goes on with the same command after its last finished category. Several numbers of
shots or seeds make a run for each of them, and each test image is encoded once for all:

    python test.py --dataset mvtec --k-shot 1 2 4 --seed 14 15 16 17 18

So do combinations of settings, which end in a table, results/MODEL/DATASET/ablation.md:

    python test.py --dataset mvtec --seed 14 15 16 --ablate winmode=nan,mul use-nam=0,1

Several processes share the categories, and leave the files of one:

    torchrun --standalone --nproc-per-node 8 test.py --dataset mvtec
"""

from __future__ import annotations

if __name__ in ("__main__", "fdsl_commands.test"):  # before torch is imported: Ctrl-C is answered at once
    from utils import signals

    signals.answer()

import logging

from fdsl.flags.evaluate_flags import parse
from utils.command import run_command
from utils.world import connected, find_world

logger = logging.getLogger("fdsl")


def main(argv: list[str] | None = None) -> None:
    several = parse(argv, __doc__)
    logger.info("loading the image model ...")
    from fdsl.commands.evaluate_runs import evaluate_runs, facts_of
    from fdsl.evaluation.ablation_table import write_ablations
    from fdsl.evaluation.plan import unique
    from fdsl.evaluation.single_pass import grouped_by_backbone
    from fdsl.evaluation.submission import refuse, write_submission
    from fdsl.flags.run_from_flags import evaluation_options, plan

    with connected(find_world()) as world:
        options = evaluation_options(several[0], world.restarted())
        runs = world.agree(lambda: plan(several), facts_of)
        if options.submission is not None:
            world.agree(lambda: refuse(options.submission, runs[0]))
        for group in grouped_by_backbone(unique(runs)):
            evaluate_runs(group, options, world)
        if options.submission is not None and world.is_first:
            write_submission(options.submission, runs[0], options.reading)
    if options.compared and world.is_first:
        write_ablations(runs)


def command() -> None:
    """The command, with errors as one sentence and exit codes."""
    run_command(main)


if __name__ == "__main__":
    command()
