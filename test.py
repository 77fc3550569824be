"""Evaluates a checkpoint on a dataset, with every ablation.

    python test.py --dataset mvtec --data-path data/mvtec --model-name fdsl --k-shot 1 --seed 14
    python test.py --from-maps results/fdsl/mvtec/1shot/seed14/mul_13_2_0.5 --win-weight 0.3

By default the heads are those trained on the other dataset. Writes results/MODEL/DATASET/Kshot/seedS/RUN/. A
run that was interrupted goes on with the same command after its last finished category.
"""

from __future__ import annotations

if __name__ in ("__main__", "fdsl_commands.test"):  # before torch is imported: Ctrl-C is answered at once
    from utils import signals

    signals.answer(at_once=True)

import argparse
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.catalogue import open_catalogue
from data.check import find_duplicates
from data.dataset import files_digest
from data.images import MAX_PIXELS
from data.records import Catalogue, Record, draw_references, with_masks, without_references
from fdsl.assembly import build_detector
from fdsl.detection import Overflow, detect
from fdsl.evaluation import PAPER_SIDE
from fdsl.flags.arguments import SEED, CommandLine, metric_side, name_part, whole
from fdsl.flags.groups import add_backbone_flags, add_method_flags, add_runtime_flags, add_window_flags
from fdsl.report.tables import metrics_table
from fdsl.results import write_results
from fdsl.runs import differences_of_runs, run_name, same_run
from fdsl.settings import backbone_config, method_config, refuse_windows_without_mode, window_config
from fdsl.store.checkpoint import PRECISION_ASKED, Checkpoint, load_checkpoint
from fdsl.store.finished_parts import FinishedParts
from fdsl.store.maps import RunMaps, load_maps
from fdsl.words import LEARNT_FROM_THESE, framing
from models.methods.registry import METHODS
from utils.command import run_command
from utils.config import (
    DATASETS,
    IMAGE_SCORES,
    OTHER_DATASET,
    BackboneConfig,
    MethodConfig,
    WindowConfig,
    as_stored,
    checkpoint_path,
    from_stored,
)
from utils.device import choose_device, choose_precision, machine_facts, seed_everything, worker_count
from utils.errors import ConfigError, DataError, ModelError
from utils.files import (
    file_digest,
    read_json,
    remove_leftovers,
    sampled_digest,
    short_digest,
    write_json,
    write_text,
)
from utils.lock import locked
from utils.log import start_logging, warn
from utils.signals import command_line, how_to_continue
from utils.text import one_line, shown

logger = logging.getLogger("fdsl")
WRITTEN = (
    "metrics.json",
    "config.json",
    "references.txt",
    "maps.npz",
    "scores.csv",
    "metrics.csv",
    "table.md",
    "report.html",
)  # metrics.json, which says that a run is whole, goes first
DEFAULTS = {"model_name": "fdsl", "k_shot": 1, "seed": 14, "heads": "fdsl"}
EVALUATION = {"image_score": "paper", "metric_size": PAPER_SIDE}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--dataset", choices=DATASETS, help="needed unless --from-maps names a run")
    parser.add_argument("--data-path", type=Path, help="the dataset's folder (default data/DATASET)")
    parser.add_argument(
        "--meta", type=Path, metavar="FILE", help="meta.json elsewhere than in the dataset's folder"
    )
    parser.add_argument("--model-name", type=name_part, help="names checkpoints and results (default fdsl)")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="default CHECKPOINTS/MODEL/<the other dataset>.safetensors",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        dest="heads",
        help="fdsl: trained heads (default); nearest: none, the distance to "
        "the nearest normal patch; both: their fusion, as predict.py's",
    )
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), metavar="DIR")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
    parser.add_argument("--k-shot", type=whole(0), help="references of each category (default 1)")
    parser.add_argument("--seed", type=SEED, help="draws the references (default 14)")
    parser.add_argument("--batch-size", type=whole(1), default=4)
    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument(
        "--image-score",
        choices=IMAGE_SCORES,
        help="paper: scaled over the whole test set, as published; max, top1: not (default paper)",
    )
    evaluation.add_argument(
        "--metric-size",
        type=metric_side,
        metavar="PX|full",
        help="side at which maps meet masks (default 240); full: each mask's own resolution",
    )
    evaluation.add_argument(
        "--from-maps", type=Path, metavar="DIR", help="evaluate a finished run's maps anew"
    )
    evaluation.add_argument(
        "--pictures",
        type=whole(0),
        metavar="N",
        help="at most N picture strips a category (default all); 0: no pictures and no report",
    )
    evaluation.add_argument("--force", action="store_true", help="repeat a run that is finished")
    evaluation.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on after the finished categories of an interrupted run (default), or start it anew",
    )
    parser.add_argument(
        "--max-pixels",
        type=whole(1),
        default=MAX_PIXELS,
        metavar="N",
        help=f"a larger image is refused (default {MAX_PIXELS:,})",
    )
    add_window_flags(parser)
    add_method_flags(parser)
    add_backbone_flags(parser)
    add_runtime_flags(parser)
    args = parser.parse_args(argv)
    if args.from_maps is None:
        if args.dataset is None:
            parser.error("--dataset is needed (or --from-maps DIR)")
        for name, value in (DEFAULTS | EVALUATION).items():
            setattr(args, name, value if getattr(args, name) is None else getattr(args, name))
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    config, checkpoint = stored_config(args) if args.from_maps else new_config(args)
    seed_everything(config["seed"])
    catalogue = open_catalogue(config["dataset"], config["data_path"], config["meta"])
    references = draw_all_references(catalogue, config)
    tested = tested_records(catalogue, references)
    files = files_digest(
        catalogue.root, [record for part in (*references.values(), *tested.values()) for record in part]
    )
    if args.from_maps and config.get("files", files) != files:
        raise ConfigError(
            f"The photographs in {config['data_path']} are not those that the maps of {args.from_maps} are of; run test.py "
            "without --from-maps."
        )
    config["files"] = files
    if checkpoint is not None:
        config["learnt_from_these"] = learnt_from(checkpoint, catalogue, config["dataset"])
    if config.get("learnt_from_these"):
        logger.warning("warning: %s", LEARNT_FROM_THESE)
    folder = run_folder(config, args.results)
    if not args.force and is_finished(folder, config):
        if args.pictures == 0 or (folder / "report.html").is_file():
            logger.info("%s is finished: nothing to do (--force repeats it).", folder)
            logger.info(
                "%s\n\nPer cent. %s", metrics_table(read_json(folder / "metrics.json")), framing(config)
            )
            return
        if (folder / "maps.npz").is_file():
            logger.info("%s is finished but for its pictures: they are drawn from its maps.", folder)
            args.from_maps = folder
            config = {**config, "machine": read_json(folder / "config.json")["machine"]}
    with locked(folder / ".lock", str(folder), "name another folder with --results"):
        run(folder, config, checkpoint, catalogue.root, references, tested, args)


def learnt_from(checkpoint: Checkpoint, catalogue: Catalogue, dataset: str) -> bool:
    """Whether the heads were trained on these test images: the same files, or the same dataset by its
    name."""
    here = files_digest(
        catalogue.root, (record for part in catalogue.test.values() for record in with_masks(part))
    )
    same_name = checkpoint.config.get("dataset") == dataset and dataset in OTHER_DATASET
    return same_name or checkpoint.config.get("training", {}).get("learnt") == here


def is_finished(folder: Path, config: dict[str, Any]) -> bool:
    """Whether `folder` holds a whole run of `config`, or of it in float32 because values overflowed in its
    precision."""
    stored = read_json(folder / "config.json")
    machine = stored.get("machine") if isinstance(stored, dict) else None
    if FinishedParts.left_in(folder) or not isinstance(machine, dict):
        return False
    fell_back = machine.get(PRECISION_ASKED) == config["machine"]["precision"]
    wanted = in_float32(config) if fell_back else config
    if same_run(folder, wanted):
        return True
    if same_run(folder, {**wanted, "files": stored.get("files")}):
        logger.info("%s is of other photographs than lie there now: the run is repeated.", folder)
    elif other := differences_of_runs(folder, wanted):
        logger.warning(
            "warning: %s holds a run of other settings, which this one replaces (%s); --results or --model-name keeps both.",
            folder,
            "; ".join(other),
        )
    return False


def in_float32(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run whose values overflowed in the precision that was asked for."""
    machine = config["machine"]
    return {**config, "machine": {**machine, "precision": "float32", PRECISION_ASKED: machine["precision"]}}


def run(
    folder: Path,
    config: dict[str, Any],
    checkpoint: Checkpoint | None,
    root: Path,
    references: dict[str, list[Record]],
    tested: dict[str, list[Record]],
    args: argparse.Namespace,
) -> None:
    """From the settings to the finished folder; categories that an interrupted run has finished are taken
    from it."""

    def begin() -> FinishedParts:
        """From here on the folder is this run's; what refuses a run comes before."""
        return begin_run(folder, config, root, references, tested, args)

    if args.from_maps:
        maps = load_maps(args.from_maps / "maps.npz").select(
            [record.image_path for records in tested.values() for record in records]
        )
        parts = begin()
    else:
        maps, config, parts = detect_finite(begin, folder, config, checkpoint, root, references, tested, args)
    how_to_continue(
        "the same command goes on with tables and pictures: the maps of every category are finished"
    )
    write_results(folder, maps, root, references, tested, config, args.pictures, args.max_pixels)
    parts.discard()
    logger.info("results in %s%s", folder, "" if args.pictures == 0 else f"; open {folder / 'report.html'}")


def begin_run(
    folder: Path,
    config: dict[str, Any],
    root: Path,
    references: dict[str, list[Record]],
    tested: dict[str, list[Record]],
    args: argparse.Namespace,
) -> FinishedParts:
    """Makes the folder this run's: an earlier one's results go, but for the maps that this one is made from,
    and the categories that an interrupted run has finished."""
    parts = FinishedParts(folder)
    if not args.resume:
        parts.clear()
    remove_leftovers(*(folder / name for name in WRITTEN))
    own_maps = args.from_maps is not None and args.from_maps.resolve() == folder.resolve()
    for name in WRITTEN:
        if name != "config.json" and not (name == "maps.npz" and own_maps):
            (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "pictures", ignore_errors=True)
    start_logging(folder / "log.txt")
    logger.info("%s", command_line())
    write_json(folder / "config.json", config)
    write_text(
        folder / "references.txt",
        "".join(
            f"{record.category}\t{record.image_path}\n" for drawn in references.values() for record in drawn
        ),
    )
    for category, records in tested.items():
        warn(find_duplicates(root, references[category], records))
    return parts


def detect_finite(
    begin: Callable[[], FinishedParts],
    folder: Path,
    config: dict[str, Any],
    checkpoint: Checkpoint | None,
    root: Path,
    references: dict[str, list[Record]],
    tested: dict[str, list[Record]],
    args: argparse.Namespace,
) -> tuple[RunMaps, dict[str, Any], FinishedParts]:
    """The maps, the configuration that made them (float32 where values overflow in the precision asked for),
    and the parts.

    `begin` is called once there is a detector: a run that cannot be has changed nothing.
    """
    how = args.batch_size, worker_count(args.workers), args.max_pixels
    detector = build_detector(config, checkpoint)
    parts = begin()
    try:
        return detect(detector, root, references, tested, parts, config, *how), config, parts
    except Overflow as overflow:
        told = str(overflow)  # alone: the error itself holds the detector, and the next one needs its memory
    del detector
    logger.warning("%s The run is repeated in float32.", told)
    config = in_float32(config)
    write_json(folder / "config.json", config)
    return (
        detect(build_detector(config, checkpoint), root, references, tested, parts, config, *how),
        config,
        parts,
    )


def new_config(args: argparse.Namespace) -> tuple[dict[str, Any], Checkpoint | None]:
    """config.json of the run that the flags ask for, and its checkpoint (None without trained heads)."""
    path = args.checkpoint
    if args.heads == "nearest":
        return nearest_config(args), None
    if path is None:
        trained_on = OTHER_DATASET.get(args.dataset)
        if trained_on is None:
            raise ConfigError(
                f"--dataset {args.dataset} has no default checkpoint; name one with --checkpoint FILE, or test without "
                "trained heads with --method nearest."
            )
        path = checkpoint_path(args.checkpoints, args.model_name, trained_on)
    checkpoint = load_checkpoint(path)
    stored = checkpoint.config
    tower = backbone_config(vars(args), stored.get("backbone"))
    method = method_config(vars(args), stored.get("method"), checkpoint.has_nam)
    if args.heads == "both" and method.fd == "none":
        raise ConfigError("--method both needs a discrepancy, and these heads were trained on --fd none.")
    if args.k_shot == 0 and method.fd != "none":
        raise ConfigError(
            "--k-shot 0 works only with heads trained on --fd none; give at least one reference."
        )
    return config_of(
        args,
        tower,
        method,
        checkpoint=str(path),
        checkpoint_digest=file_digest(path),
        trained_on=stored.get("dataset"),
    ), checkpoint


def nearest_config(args: argparse.Namespace) -> dict[str, Any]:
    """config.json of a run without trained heads; ConfigError for flags that only such heads have a use
    for."""
    given = [
        name
        for name, value in (
            ("checkpoint", args.checkpoint),
            ("use-nam 1", args.use_nam or None),
            ("fd", args.fd),
        )
        if value is not None
    ]
    if given:
        raise ConfigError(f"--{given[0]} does not go with --method nearest, which has no trained heads.")
    if args.k_shot == 0:
        raise ConfigError(
            "--k-shot 0 leaves --method nearest nothing to compare with; give at least one reference."
        )
    refuse_windows_without_mode(vars(args))
    args.use_nam, args.winmode = 0, args.winmode or "nan"
    return config_of(
        args,
        backbone_config(vars(args)),
        method_config(vars(args)),
        checkpoint="",
        checkpoint_digest="",
        trained_on=None,
    )


def config_of(
    args: argparse.Namespace, tower: BackboneConfig, method: MethodConfig, **heads: Any
) -> dict[str, Any]:
    """config.json of a run; `heads` says where the trained ones come from."""
    device = choose_device(args.device)
    dtype = choose_precision(args.precision, device)
    if tower.untrained:
        logger.warning(
            "The backbone is untrained (--pretrained none): results show that everything runs, "
            "not how good the method is."
        )
    return {
        "dataset": args.dataset,
        "data_path": str(args.data_path or Path("data") / args.dataset),
        "meta": str(args.meta) if args.meta else None,
        "model_name": args.model_name,
        "k_shot": args.k_shot,
        "seed": args.seed,
        "heads": args.heads,
        **heads,
        "backbone": as_stored(tower),
        "weights": sampled_digest(Path(tower.pretrained)),
        "method": as_stored(method),
        "windows": as_stored(window_config(vars(args))),
        "image_score": args.image_score,
        "metric_size": args.metric_size,
        "pictures": args.pictures,
        "machine": machine_facts(device, dtype),
        "command": command_line(),
    }


def stored_config(args: argparse.Namespace) -> tuple[dict[str, Any], None]:
    """config.json of a finished run, fused and evaluated as the flags ask."""
    config = read_run_config(args.from_maps)
    if FinishedParts.left_in(args.from_maps) or not (args.from_maps / "metrics.json").is_file():
        raise ConfigError(
            f"The run in {args.from_maps} has not ended, so its maps may be of an earlier one; run test.py to its end first."
        )
    refuse_changes(args, config)
    evaluation = {name: getattr(args, name) or config[name] for name in EVALUATION}
    windows = window_config(vars(args), config["windows"])
    data_path = str(args.data_path) if args.data_path else config["data_path"]
    return {
        **config,
        "data_path": data_path,
        "meta": str(args.meta) if args.meta else config["meta"],
        "windows": as_stored(windows),
        **evaluation,
        "pictures": args.pictures,
        "command": command_line(),
    }, None


def refuse_changes(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """ConfigError for a flag that asks for other maps than the stored ones of `config`."""
    tower = {name: config["backbone"][name] for name in ("model", "layers", "image_size")}
    stored = {name: config[name] for name in (*DEFAULTS, "dataset", "checkpoint")} | config["method"] | tower
    for name, value in stored.items():
        given = getattr(args, name)
        given = str(given) if isinstance(given, Path) else sorted(given) if isinstance(given, list) else given
        if given is not None and given != value:
            flag = "method" if name == "heads" else name.replace("_", "-")
            raise ConfigError(
                f"--{flag} cannot change with --from-maps: the stored maps are of {value}; run test.py "
                "without --from-maps."
            )


def read_run_config(folder: Path) -> dict[str, Any]:
    """A finished run's config.json; ConfigError for one that no run writes."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or "windows" not in config:
        raise ConfigError(f"{folder} is not the folder of a test run: it has no config.json.")
    config = {"heads": "fdsl", **config}
    try:
        name_part(config["model_name"])
        for kind, name in ((WindowConfig, "windows"), (MethodConfig, "method"), (BackboneConfig, "backbone")):
            from_stored(kind, config[name])
        texts = (
            config["dataset"],
            config["data_path"],
            config["checkpoint"],
            config["checkpoint_digest"],
            config["machine"]["precision"],
            config["machine"]["device"],
        )
        right = (
            all(isinstance(text, str) for text in texts)
            and config["dataset"] in DATASETS
            and config["heads"] in METHODS
            and type(config["k_shot"]) is int
            and type(config["seed"]) is int
            and all(isinstance(config[name], (str, type(None))) for name in ("meta", "trained_on"))
        )
    except (ConfigError, KeyError, TypeError, argparse.ArgumentTypeError) as error:
        raise ConfigError(
            f"{folder / 'config.json'} is not that of a test run ({one_line(error)}); run test.py again."
        ) from error
    if not right:
        raise ConfigError(f"{folder / 'config.json'} holds values that no run writes; run test.py again.")
    return config


def run_folder(config: dict[str, Any], results: Path) -> Path:
    """results/MODEL/DATASET/Kshot/seedS/RUN."""
    default = OTHER_DATASET.get(config["dataset"])
    usual = Path(config["checkpoint"]).parts[-2:] == (config["model_name"], f"{default}.safetensors")
    odd = "" if usual else short_digest(config["checkpoint_digest"])
    if config["heads"] == "nearest":  # whose backbone no checkpoint names
        tower = {
            **config["backbone"],
            "model_config": None,
            "pretrained": config.get("weights") or config["backbone"]["pretrained"],
        }
        odd = "" if tower == as_stored(BackboneConfig()) else short_digest(json.dumps(tower, sort_keys=True))
    odd = "_".join(part for part in ("" if config["heads"] == "fdsl" else config["heads"], odd) if part)
    if config["dataset"] == "folder":
        odd = "_".join(part for part in (odd, Path(config["data_path"]).resolve().name) if part)
    name = run_name(
        WindowConfig(**config["windows"]),
        MethodConfig(**config["method"]),
        config["image_score"],
        config["metric_size"],
        odd,
    )
    return (
        results
        / config["model_name"]
        / config["dataset"]
        / f"{config['k_shot']}shot"
        / f"seed{config['seed']}"
        / name
    )


def draw_all_references(catalogue: Catalogue, config: dict[str, Any]) -> dict[str, list[Record]]:
    """Category -> its k references; drawn for all before anything is computed, so that too few are said at
    once."""
    return {
        category: draw_references(
            catalogue.train.get(category, []), config["k_shot"], config["seed"], category
        )
        for category in catalogue.test
    }


def tested_records(catalogue: Catalogue, references: dict[str, list[Record]]) -> dict[str, list[Record]]:
    """Category -> its test images without the references; categories without any are left out with a
    warning."""
    tested = {
        category: without_references(records, references[category])
        for category, records in catalogue.test.items()
    }
    warn(
        [
            f"category {shown(category)} has no test image and is left out"
            for category in tested
            if not tested[category]
        ]
    )
    if not any(tested.values()):
        raise DataError(f"{catalogue.root}: there is no image to test; check --data-path, or lower --k-shot.")
    return {category: records for category, records in tested.items() if records}


def command() -> None:
    """The command line of test.py and of fdsl-test."""
    run_command(main, (DataError, ModelError, ConfigError))


if __name__ == "__main__":
    command()
