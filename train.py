"""Fits FDSL's heads on one labelled dataset, over a frozen backbone.

    python train.py --dataset visa --data-path data/visa --model-name fdsl

The training data are the dataset's *test* images (they have masks); each looks its nearest normal tokens up in its
own category's memory bank. Writes CHECKPOINTS/MODEL/DATASET.safetensors, named by the training set.
"""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path

import torch
from torch import Tensor

from data.dataset import EpochSampler, InspectionDataset, TrainingDataset, make_loader
from data.records import Catalogue, DataError, describe_catalogue, draw_references, open_catalogue, with_masks
from models.backbone import FrozenBackbone, ModelError, load_backbone
from models.fdsl import FDSL, feature_discrepancy
from models.losses import map_losses
from models.memory import MemoryBank
from utils import config as settings
from utils.checkpoint import is_trained, save_checkpoint
from utils.config import ConfigError
from utils.files import csv_text, write_text
from utils.results import write_loss_curve
from utils.runtime import (choose_device, choose_precision, command_line, machine_facts, progress, run_command,
                           seed_everything, start_logging, worker_count)

logger = logging.getLogger("fdsl")
ADAM_BETAS = (0.5, 0.999)
LOSS_COLUMNS = ("step", "epoch", "loss", "focal", "dice")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=settings.DATASETS, required=True)
    parser.add_argument("--data-path", type=Path, help="the dataset's folder (default data/DATASET)")
    parser.add_argument("--meta", type=Path, metavar="FILE", help="meta.json elsewhere than in the dataset's folder")
    parser.add_argument("--model-name", type=settings.name_part, default="fdsl", help="names checkpoints and results")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), metavar="DIR")
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=settings.whole(1), help="default as published: 11 on visa, 5 elsewhere")
    training.add_argument("--k-shot", type=settings.whole(1), default=10, help="references of each category (default 10)")
    training.add_argument("--batch-size", type=settings.whole(1), default=8)
    training.add_argument("--learning-rate", type=settings.real(0, 1, above=True), default=1e-3)
    training.add_argument("--augmentation", choices=("mosaic", "crop", "none"), help="default as published for the dataset")
    training.add_argument("--seed", type=settings.whole(0), default=111)
    training.add_argument("--force", action="store_true", help="train again though the same checkpoint is there")
    settings.add_method_flags(parser)
    settings.add_backbone_flags(parser)
    settings.add_runtime_flags(parser)
    args = parser.parse_args(argv)
    args.data_path = args.data_path or Path("data") / args.dataset
    args.epochs = args.epochs or settings.PUBLISHED_EPOCHS.get(args.dataset, settings.PUBLISHED_EPOCHS["mvtec"])
    args.augmentation = args.augmentation or settings.AUGMENTATIONS[args.dataset]
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    target = settings.checkpoint_path(args.checkpoints, args.model_name, args.dataset)
    start_logging(target.with_suffix(".log.txt"))
    logger.info("%s", command_line())
    seed_everything(args.seed)
    device, method, tower = choose_device(args.device), settings.method_config(args), settings.backbone_config(args)
    dtype = choose_precision(args.precision, device)

    catalogue = open_catalogue(args.dataset, args.data_path, args.meta)
    logger.info("%s", describe_catalogue(catalogue, args.dataset))
    backbone = load_backbone(tower.model, tower.pretrained, tower.layers, device, dtype, tower.model_config)
    if tower.untrained:
        logger.warning("The backbone is untrained (--pretrained none): its features are random projections. "
                       "Results show that everything runs, not how good the method is.")
    stored = {"backbone": settings.as_stored(tower), "method": settings.as_stored(method),
              "fingerprint": backbone.fingerprint, "dataset": args.dataset,
              "training": {"epochs": args.epochs, "k_shot": args.k_shot, "batch_size": args.batch_size,
                           "learning_rate": args.learning_rate, "augmentation": args.augmentation, "seed": args.seed,
                           "images": {category: len(records) for category, records in catalogue.test.items()},
                           "machine": machine_facts(device, dtype)}}
    if not args.force and is_trained(target, stored):
        logger.info("%s is trained with these settings already (--force trains it again).", target)
        return
    torch.manual_seed(args.seed)
    heads = FDSL(backbone.width, len(backbone.layers), method.use_nam).to(device)
    banks = {} if method.fd == "none" else remember_references(catalogue, backbone, tower.image_size, args)
    steps = fit(heads, backbone, banks, catalogue, method, tower.image_size, args)
    save_checkpoint(target, heads.state_dict(), stored)
    write_text(target.with_suffix(".loss.csv"), csv_text(LOSS_COLUMNS, steps))
    write_loss_curve(target.with_suffix(".loss.png"), steps)
    logger.info("wrote %s, its loss in %s", target, target.with_suffix(".loss.csv").name)


def remember_references(catalogue: Catalogue, backbone: FrozenBackbone, image_size: int,
                        args: argparse.Namespace) -> dict[str, MemoryBank]:
    """Category -> memory bank (L,K*N,C) of its K references."""
    banks = {}
    for category in progress(catalogue.test, len(catalogue.test), "references"):
        records = draw_references(catalogue.train.get(category, []), args.k_shot, args.seed, category)
        dataset = InspectionDataset(catalogue.root, records, image_size)
        tokens = [backbone.encode(dataset[index]["image"][None]).tokens[:, 0] for index in range(len(dataset))]
        banks[category] = MemoryBank(torch.cat(tokens, dim=1))
    return banks


def fit(heads: FDSL, backbone: FrozenBackbone, banks: dict[str, MemoryBank], catalogue: Catalogue,
        method: settings.MethodConfig, image_size: int, args: argparse.Namespace) -> list[tuple]:
    """Trains the heads in place; returns one row of LOSS_COLUMNS per step."""
    records = [record for part in catalogue.test.values() for record in with_masks(part)]
    if not any(record.anomalous for record in records):
        raise DataError(f"{catalogue.root}: there is no defective image with a mask, so there is nothing to learn; "
                        "train on a dataset with masks.")
    dataset = TrainingDataset(catalogue.root, records, image_size, args.augmentation, args.seed)
    sampler = EpochSampler(len(dataset), args.seed)
    loader = make_loader(dataset, args.batch_size, worker_count(args.workers), sampler, pin=backbone.device.type == "cuda")
    optimizer = torch.optim.Adam(heads.parameters(), lr=args.learning_rate, betas=ADAM_BETAS)
    steps: list[tuple] = []
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        heads.train()
        first = len(steps)
        for batch in progress(loader, len(dataset), f"epoch {epoch + 1}/{args.epochs}", lambda batch: len(batch["path"])):
            focal, dice = losses(heads, discrepancy(backbone, banks, batch, method), batch["mask"].to(backbone.device))
            loss = focal + dice
            if not math.isfinite(loss.item()):
                raise ModelError(f"The loss is not finite at step {len(steps) + 1} (images {', '.join(batch['path'])}); "
                                 "check these files, or lower --learning-rate.")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            steps.append((len(steps) + 1, epoch + 1, loss.item(), focal.item(), dice.item()))
        mean = [sum(column) / len(column) for column in zip(*(step[2:] for step in steps[first:]))]
        logger.info("epoch %d/%d: loss %.4f (focal %.4f, dice %.4f)", epoch + 1, args.epochs, *mean)
    return steps


@torch.no_grad()
def discrepancy(backbone: FrozenBackbone, banks: dict[str, MemoryBank], batch: dict, method: settings.MethodConfig) -> Tensor:
    """A batch's discrepancies (L,B,N,C), each image against its own category's bank."""
    tokens = backbone.encode(batch["image"]).tokens
    if method.fd == "none":
        return feature_discrepancy(tokens, None, "none")
    return torch.stack([banks[category].discrepancy(tokens[:, index], method.align, method.fd)
                        for index, category in enumerate(batch["category"])], dim=1)


def losses(heads: FDSL, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and dice loss, each summed over blocks and over raw and refined maps."""
    maps = heads(features)
    parts = [map_losses(part, mask) for part in maps if part is not None]
    return torch.stack([focal.sum() for focal, _ in parts]).sum(), torch.stack([dice.sum() for _, dice in parts]).sum()


if __name__ == "__main__":
    run_command(main, (DataError, ModelError, ConfigError))
