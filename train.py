"""Fits FDSL's heads on one labelled dataset, over a frozen backbone.

    python train.py --dataset visa --data-path data/visa --model-name fdsl

The training data are the dataset's *test* images (they have masks); each looks its nearest normal tokens up
in its own category's memory bank. Writes CHECKPOINTS/MODEL/DATASET.safetensors, named by the training set. A
training that was interrupted, however it was, goes on with the same command and ends in the same weights.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported: Ctrl-C is answered from the first moment on
    from utils import signals

    signals.answer(at_once=True)

import argparse
import logging
from pathlib import Path
from typing import Any

import torch

from data.catalogue import describe_catalogue, open_catalogue
from data.check import find_duplicates
from data.dataset import EpochSampler, TrainingDataset, files_digest, make_loader
from data.images import MAX_PIXELS
from data.records import Catalogue, Record, draw_references, with_masks, without_references
from fdsl.flags.arguments import SEED, CommandLine, name_part, real, save_interval, whole
from fdsl.flags.chosen import backbone_config, method_config
from fdsl.flags.groups import add_backbone_flags, add_method_flags, add_runtime_flags
from fdsl.report.loss_curve import write_loss_curve
from fdsl.store.checkpoint import PRECISION_ASKED, differences, is_trained, save_checkpoint
from fdsl.store.training_state import Position, SavedTraining, TrainingState
from fdsl.training import DiscrepancySource, HeadsStep
from models.backbone import Backbone
from models.backbones.registry import load_backbone
from models.methods.fdsl import Fdsl
from utils.command import run_command
from utils.config import AUGMENTATIONS, DATASETS, PUBLISHED_EPOCHS, as_stored, checkpoint_path
from utils.device import (
    choose_device,
    choose_precision,
    machine_facts,
    make_repeatable,
    seed_everything,
    worker_count,
)
from utils.errors import ConfigError, DataError, ModelError
from utils.files import csv_text, remove_leftovers, write_text
from utils.lock import locked
from utils.log import progress, start_logging, warn
from utils.signals import command_line, how_to_continue
from utils.text import shown

logger = logging.getLogger("fdsl")
ADAM_BETAS = (0.5, 0.999)
LOSS_COLUMNS = ("step", "epoch", "loss", "focal", "dice")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--dataset", choices=DATASETS, required=True)
    parser.add_argument("--data-path", type=Path, help="the dataset's folder (default data/DATASET)")
    parser.add_argument(
        "--meta", type=Path, metavar="FILE", help="meta.json elsewhere than in the dataset's folder"
    )
    parser.add_argument("--model-name", type=name_part, default="fdsl", help="names checkpoints and results")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), metavar="DIR")
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=whole(1), help="default as published: 11 on visa, 5 elsewhere")
    training.add_argument(
        "--k-shot", type=whole(1), default=10, help="references of each category (default 10)"
    )
    training.add_argument("--batch-size", type=whole(1), default=8)
    training.add_argument("--learning-rate", type=real(0, 1, above=True), default=1e-3)
    training.add_argument(
        "--augmentation", choices=("mosaic", "crop", "none"), help="default as published for the dataset"
    )
    training.add_argument("--seed", type=SEED, default=111)
    training.add_argument(
        "--force", action="store_true", help="train again though the same checkpoint is there"
    )
    training.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with an unfinished training of the same settings (default), or start it anew",
    )
    training.add_argument(
        "--save-every",
        type=save_interval,
        default=save_interval("1m"),
        metavar="N|TIME",
        help="keep the state each N steps (50) or TIME (30s, 5m, 1h), and each epoch (default 1m)",
    )
    parser.add_argument(
        "--max-pixels",
        type=whole(1),
        default=MAX_PIXELS,
        metavar="N",
        help=f"a larger image is refused (default {MAX_PIXELS:,})",
    )
    add_method_flags(parser)
    add_backbone_flags(parser)
    add_runtime_flags(parser)
    args = parser.parse_args(argv)
    args.data_path = args.data_path or Path("data") / args.dataset
    args.epochs = args.epochs or PUBLISHED_EPOCHS.get(args.dataset, PUBLISHED_EPOCHS["mvtec"])
    args.augmentation = args.augmentation or AUGMENTATIONS[args.dataset]
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    target = checkpoint_path(args.checkpoints, args.model_name, args.dataset)
    with locked(
        target.with_name(f".{target.stem}.lock"), str(target), "name another folder with --checkpoints"
    ):
        train(args, target)


def train(args: argparse.Namespace, target: Path) -> None:
    """From the settings to the checkpoint `target`; what an interrupted run has done is not done again."""
    loss_table, loss_curve = target.with_suffix(".loss.csv"), target.with_suffix(".loss.png")
    unfinished = target.with_suffix(".unfinished.safetensors")
    remove_leftovers(target, loss_table, loss_curve, unfinished)
    start_logging(target.with_suffix(".log.txt"))
    logger.info("%s", command_line())
    seed_everything(args.seed)
    device, method, tower = (choose_device(args.device), method_config(args), backbone_config(args))
    dtype = choose_precision(args.precision, device)
    make_repeatable(device)

    catalogue = open_catalogue(args.dataset, args.data_path, args.meta)
    logger.info("%s", describe_catalogue(catalogue, args.dataset))
    records = training_records(catalogue)
    left_out = sum(map(len, catalogue.test.values())) - len(records)
    warn([f"{left_out} defective image(s) have no mask and are left out of the training"] if left_out else [])
    references = {
        category: draw_references(catalogue.train.get(category, []), args.k_shot, args.seed, category)
        for category in dict.fromkeys(record.category for record in records)
        if method.fd != "none"
    }
    if (
        args.dataset == "folder"
    ):  # without train/ both come from the same folder: a reference has no discrepancy to learn from
        records = without_references(records, [record for drawn in references.values() for record in drawn])
        if not any(not record.anomalous for record in records):
            warn(
                [
                    "every good image is a reference, so none is left to learn from: lower --k-shot or add good images"
                ]
            )
    data = files_digest(
        catalogue.root, [*records, *(record for drawn in references.values() for record in drawn)]
    )
    if tower.untrained:
        logger.warning(
            "The backbone is untrained (--pretrained none): its features are random projections. "
            "Results show that everything runs, not how good the method is."
        )

    def load(precision: torch.dtype) -> Backbone:
        return load_backbone(
            tower.model, tower.pretrained, tower.layers, device, precision, tower.model_config
        )

    backbone = load(dtype)
    stored = {
        "backbone": as_stored(tower),
        "method": as_stored(method),
        "fingerprint": backbone.fingerprint,
        "dataset": args.dataset,
        "training": {
            "epochs": args.epochs,
            "k_shot": args.k_shot,
            "batch_size": args.batch_size,
            "learning_rate": args.learning_rate,
            "augmentation": args.augmentation,
            "seed": args.seed,
            "learnt": files_digest(catalogue.root, records),
            "files": data,
            "images": {category: len(part) for category, part in catalogue.test.items()},
            "machine": machine_facts(device, dtype),
        },
    }
    state = TrainingState(unfinished, stored, data, len(LOSS_COLUMNS))
    saved = read_unfinished(state) if args.resume else None
    if saved is None and not args.force and is_trained(target, stored):
        logger.info("%s is trained with these settings already (--force trains it again).", target)
        return
    for category, drawn in references.items():
        others = without_references([record for record in records if record.category == category], drawn)
        warn(find_duplicates(catalogue.root, drawn, others))
    torch.manual_seed(args.seed)
    heads = Fdsl(backbone.width, len(backbone.layers), method).to(device)
    source = DiscrepancySource(
        load, backbone, method, catalogue.root, references, tower.image_size, args.max_pixels
    )
    position = fit(heads, source, catalogue.root, records, state, saved, args)
    save_checkpoint(target, heads.state_dict(), stored)
    write_text(loss_table, csv_text(LOSS_COLUMNS, position.rows))
    write_loss_curve(loss_curve, position.rows)
    state.discard()
    logger.info("wrote %s, its loss in %s", target, loss_table.name)


def training_records(catalogue: Catalogue) -> list[Record]:
    """The test images that can be learnt from; DataError where none of them is defective."""
    records = [record for part in catalogue.test.values() for record in with_masks(part)]
    if not any(record.anomalous for record in records):
        raise DataError(
            f"{catalogue.root}: there is no defective image with a mask, so there is nothing to learn; "
            "train on a dataset with masks."
        )
    return records


def read_unfinished(state: TrainingState) -> SavedTraining | None:
    """The unfinished training of these settings and images, or None; one of others is a ConfigError, not
    overwritten."""
    if not state.file.exists():
        return None
    saved = state.read()
    if changed := differences(saved.config, state.config):
        raise ConfigError(
            f"{state.file} holds an unfinished training with another {', '.join(changed)} (after step "
            f"{saved.position.step}); finish it with its own settings, or start anew with --no-resume."
        )
    if saved.data != state.data:
        raise ConfigError(
            f"{state.file} holds an unfinished training on other files: the dataset has changed since; "
            "put the files back, or start anew with --no-resume."
        )
    logger.info(
        "Going on after step %d of an unfinished training (--no-resume starts anew).", saved.position.step
    )
    how_to_continue(f"the same command goes on after step {saved.position.step}")
    then, now = saved.config["training"]["machine"], state.config["training"]["machine"]
    if other := [name for name in ("device_name", "torch") if then.get(name) != now[name]]:
        logger.warning(
            "It began with another %s: the weights can differ in their last bits.", " and ".join(other)
        )
    return saved


def fit(
    heads: Fdsl,
    source: DiscrepancySource,
    root: Path,
    records: list[Record],
    state: TrainingState,
    saved: SavedTraining | None,
    args: argparse.Namespace,
) -> Position:
    """Trains the heads in place, from where `saved` stood on; the position it ends at has a LOSS_COLUMNS row
    a step."""
    optimizer = torch.optim.Adam(heads.parameters(), lr=args.learning_rate, betas=ADAM_BETAS)
    position = saved.restore(heads, optimizer) if saved else Position()
    if saved and saved.precision != source.precision:
        source.use_float32()
    dataset = TrainingDataset(root, records, source.image_size, args.augmentation, args.seed, args.max_pixels)
    sampler = EpochSampler(len(dataset), args.seed)
    loader = make_loader(
        dataset,
        args.batch_size,
        worker_count(args.workers),
        sampler,
        pin=source.backbone.device.type == "cuda",
    )
    step = HeadsStep(heads, optimizer)

    def keep() -> None:
        note_precision(state.config["training"]["machine"], source.precision)
        state.save(heads, optimizer, position, source.precision)
        how_to_continue(f"the same command goes on after step {position.step}")

    heads.train()
    while position.epoch < args.epochs:
        sampler.set_epoch(position.epoch, start=position.batch * args.batch_size)
        what = f"epoch {position.epoch + 1}/{args.epochs}"
        for batch in progress(
            loader,
            len(sampler),
            what,
            lambda batch: len(batch["path"]),
            lambda: f"loss {position.rows[-1][2]:.4f}",
        ):
            number = position.step + 1
            focal, dice = step(source(batch), batch["mask"].to(source.backbone.device))
            if not step.finite:
                raise ModelError(
                    f"The loss is not finite at step {number} (images {shown(', '.join(batch['path']))}); "
                    f"check these files, or lower --learning-rate; {state.kept()}."
                )
            optimizer.step()
            position.rows.append((number, position.epoch + 1, focal + dice, focal, dice))
            logger.debug("step %d: loss %.4f (focal %.4f, dice %.4f)", number, focal + dice, focal, dice)
            position.batch += 1
            if state.due(position.step, args.save_every):
                keep()
        done = [row for row in position.rows if row[1] == position.epoch + 1]
        mean = [sum(column) / len(column) for column in zip(*(row[2:] for row in done))]
        logger.info("%s: loss %.4f (focal %.4f, dice %.4f)", what, *mean)
        position.epoch, position.batch = position.epoch + 1, 0
        keep()
    return position


def note_precision(machine: dict[str, Any], precision: str) -> None:
    """Writes into a machine's facts that values overflowed in the precision that was asked for."""
    if machine["precision"] != precision:
        machine[PRECISION_ASKED], machine["precision"] = machine["precision"], precision


if __name__ == "__main__":
    run_command(main, (DataError, ModelError, ConfigError))
