"""`python -m shards build|verify|demo`: make a corpus, check a corpus, make the embedded corpus."""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from largescale.config import check, load
from largescale.cpu import own_cores
from largescale.settings import UserError
from shards.demo.corpus import Demo, build_demo
from shards.images import Encoding
from shards.plan import Sharding
from shards.sources import Source
from shards.sources.cifar import cifar
from shards.sources.folder import Folder
from shards.sources.holidays import Holidays
from shards.sources.landmarks import Landmarks, find_ground_truth
from shards.sources.listing import Listing
from shards.sources.sfm import StructureFromMotion, find_pickle
from shards.sources.tars import Tars, tar_files
from shards.verify import verify
from shards.writer import Part, build

LAYOUTS: dict[str, tuple[str, Callable[[argparse.Namespace], Source]]] = {
    "folder": (
        "SOURCE/class/….jpg; the folder of an image is its label (--class-depth 1: the first folder only); flat: no labels",
        lambda a: Folder(a.source, a.class_depth),
    ),
    "list": (
        "a CSV or text file of lines `path, label` (more columns and a header are ignored); paths below its folder or --root",
        lambda a: Listing(a.source, a.root or a.source.parent),
    ),
    "sfm": (
        "retrieval-SfM-120k: its pickle, or the folder with it; images in ims/ beside it or below --root; --split train or val",
        lambda a: StructureFromMotion(find_pickle(a.source), a.root or find_pickle(a.source).parent / "ims", a.split),
    ),
    "oxford": (
        "Oxford/Paris test sets, classic or revisited: images with gnd_*.json, gnd_*.pkl or *_query.txt (--ground-truth)",
        lambda a: Landmarks(a.source, a.ground_truth or find_ground_truth(a.source)),
    ),
    "holidays": ("INRIA Holidays: a folder of 100000.jpg …; the label is number // 100", lambda a: Holidays(a.source)),
    "cifar": (
        "CIFAR-10/100: the folder of the binary or the Python version, or split/class/ folders; --split train or test",
        lambda a: cifar(a.source, a.split),
    ),
    "img2dataset": (
        "a folder of NNNNN.tar with key.jpg and key.json; --label-field names the field of key.json that is the label",
        lambda a: Tars(a.source, a.label_field),
    ),
    "distractors": (
        "images without labels: a folder of images, or of tars",
        lambda a: Tars(a.source, layout="distractors") if tar_files(a.source) else Folder(a.source, 0, "distractors"),
    ),
}


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from what is finished", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shards", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="build|verify|demo")
    _add_build(
        commands.add_parser("build", help="turn images into a corpus", formatter_class=argparse.RawDescriptionHelpFormatter)
    )
    checked = commands.add_parser("verify", help="re-read a corpus against its manifest and name every fault")
    checked.add_argument("out", type=Path, metavar="OUT", help="the folder of the corpus")
    checked.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores)")
    checked.set_defaults(run=lambda a: verify(a.out, a.workers))
    made = commands.add_parser("demo", help="render the embedded corpora train, test and distractors; no download")
    made.add_argument("out", type=Path, metavar="OUT", help="the folder of the three corpora")
    made.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help=", ".join(f"{key}={field.default}" for key, field in Demo.model_fields.items()),
    )
    made.set_defaults(run=_demo)
    return parser


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.description = "Turn images into a corpus of WebDataset tars. Killed, it goes on when the same command is given again."
    parser.epilog = "layouts:\n" + "\n".join(f"  {name:<12} {text}" for name, (text, _) in LAYOUTS.items())
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="what to read; see the layouts below")
    add("--layout", required=True, choices=LAYOUTS, metavar="LAYOUT", help=", ".join(LAYOUTS))
    add("--out", required=True, type=Path, metavar="OUT", help="the folder of the corpus")
    add(
        "--max-side",
        type=int,
        default=512,
        metavar="PIXELS",
        help="longest side of stored images (default 512); 0 keeps size and bytes",
    )
    add("--quality", type=int, default=90, help="JPEG quality of images that are encoded anew (default 90)")
    add("--shard-images", type=int, default=1000, metavar="N", help="most images of a shard (default 1000)")
    add("--shard-bytes", type=int, default=512 * 1024**2, metavar="N", help="most bytes of a shard, about (default 512 MiB)")
    add("--bad-budget", type=float, default=0.01, metavar="SHARE", help="share of undecodable images to tolerate (default 0.01)")
    add("--workers", type=int, metavar="N", help="processes (default: all cores)")
    add("--part", type=parse_part, metavar="3/32", help="write the third of 32 parts; default: from torchrun or SLURM, else 1/1")
    add("--root", type=Path, metavar="DIR", help="list, sfm: the folder that paths are relative to")
    add("--split", default="train", choices=["train", "val", "test"], help="sfm, cifar: which split (default train)")
    add("--class-depth", type=int, metavar="N", help="folder: how many leading folders name the class (default: all)")
    add("--ground-truth", type=Path, metavar="PATH", help="oxford: the ground truth (default: the only one below SOURCE)")
    add("--label-field", metavar="FIELD", help="img2dataset: field of key.json that is the label (default: no labels)")
    parser.set_defaults(run=_build)


def _build(options: argparse.Namespace) -> int:
    encoding = check(Encoding, {"max_side": options.max_side, "quality": options.quality})
    sharding = check(Sharding, {"shard_images": options.shard_images, "shard_bytes": options.shard_bytes})
    part = options.part or part_of(os.environ)
    workers = options.workers or own_cores()
    if options.out.resolve().is_relative_to(options.source.resolve()):
        raise UserError(
            f"{options.out} lies in {options.source}: what is built would become part of the source; choose another OUT"
        )
    source = LAYOUTS[options.layout][1](options)
    build(source, options.out, encoding, sharding, part=part, workers=workers, bad_budget=options.bad_budget)
    return 0


def _demo(options: argparse.Namespace) -> int:
    build_demo(options.out, load(Demo, options.settings))
    return 0


def parse_part(text: str) -> Part:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"expected NUMBER/COUNT with 1 <= NUMBER <= COUNT, found {text!r}")
    return Part(int(number) - 1, int(count))


def part_of(environment: Mapping[str, str]) -> Part:
    """The part of this process by the rank that torchrun or SLURM (a step of srun) gave it; all of it without them."""
    if "RANK" in environment:
        return Part(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
    if "SLURM_STEP_ID" in environment:
        return Part(int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"]))
    return Part()


if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["shards.shard", "torch"])
    sys.exit(main(sys.argv[1:]))
