"""`python -m shards build|verify|demo|layouts`: make corpora, check one, make the embedded ones, list what can be read."""

import argparse
import multiprocessing
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from largescale.config import check, load
from largescale.cpu import own_cores
from largescale.program.cli import called
from largescale.program.running import fault_of_place
from largescale.settings import UserError

from .append import append
from .demo.corpus import Demo, build_demo
from .images import Encoding
from .layouts import LAYOUTS, choose, corpora, counted, find_layout, others, table
from .plan import Sharding
from .sources import Source
from .sources.layout import Layout, Request
from .sources.split import SIDES, ClassSplit
from .sources.tables.table import lists_in
from .verify import verify
from .writer import BuildPart, build


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        sentence = fault_of_place(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from what is finished", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=called("shards"), description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="build|verify|demo|layouts")
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
    commands.add_parser("layouts", help="the layouts that can be read, as a table").set_defaults(run=_layouts)
    return parser


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.description = "Turn images into a corpus of WebDataset tars. Killed, it goes on when the same command is given again."
    parser.epilog = "layouts:\n" + "\n".join(f"  {name:<14} {layout.about}" for name, layout in LAYOUTS.items())
    add = parser.add_argument
    add("source", type=_local_source, metavar="SOURCE", help="what to read; see the layouts below")
    add("--layout", metavar="LAYOUT", help="one of the layouts below, or package.module:Class of your own (default: recognized)")
    add("--out", required=True, metavar="OUT", help="the folder of the corpus, or of the corpora where there are several")
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
    add(
        "--append", action="store_true", help="add what SOURCE has more to the corpus OUT; the corpus of before is kept beside it"
    )
    add("--root", type=_local_source, metavar="DIR", help="list, sfm: the folder that paths are relative to")
    add("--split", metavar="NAME", help="write this one of several corpora, into OUT itself (default: all, into OUT/NAME)")
    add(
        "--split-classes", type=float, metavar="SHARE", help="two corpora without a common class: train with this share, and test"
    )
    add("--class-depth", type=int, metavar="N", help="folder: how many leading folders name the class (default: all)")
    add("--ground-truth", type=_local_source, metavar="PATH", help="oxford: the ground truth (default: what is below SOURCE)")
    add("--path-field", metavar="FIELD", help="list: the column of paths (default: by its name)")
    add("--label-field", metavar="FIELD", help="list, table, img2dataset: the column or field that is the label")
    parser.set_defaults(run=_build)


def _build(options: argparse.Namespace) -> int:
    encoding = check(Encoding, {"max_side": options.max_side, "quality": options.quality})
    sharding = check(Sharding, {"shard_images": options.shard_images, "shard_bytes": options.shard_bytes})
    part = options.part or part_of(os.environ)
    workers = options.workers or own_cores()
    out, sources = _local(options.out), _sources(options)
    if out.resolve().is_relative_to(options.source.resolve()):
        raise UserError(f"{out} lies in {options.source}: what is built would become part of the source; choose another OUT")
    for name, source in sources.items():
        if options.append:
            append(source, out / name, encoding, sharding, workers=workers, bad_budget=options.bad_budget)
        else:
            build(source, out / name, encoding, sharding, part=part, workers=workers, bad_budget=options.bad_budget)
    return 0


def _sources(options: argparse.Namespace) -> Mapping[str, Source]:
    """The corpora to build, by the names of their folders below OUT."""
    names = ("source", "root", "split", "class_depth", "ground_truth", "path_field", "label_field")
    request = Request(**{name: getattr(options, name) for name in names})
    layout = _layout(request, options.layout)
    if options.split_classes is None:
        return corpora(request, layout)
    if not 0 < options.split_classes < 1:
        raise UserError(
            f"--split-classes {options.split_classes}: expected the share of the classes for training, between 0 and 1"
        )
    whole = corpora(request, layout)
    if list(whole) != [""]:
        raise UserError(
            f"--split-classes divides one corpus, but layout {layout.name} finds {', '.join(whole)}: it is split already; "
            "leave the option out, or choose one with --split"
        )
    return {side: ClassSplit(whole[""], options.split_classes, side) for side in SIDES}


def _layout(request: Request, name: str | None) -> Layout:
    """The layout that was asked for, or the one that is recognized; says what else it might have been."""
    chosen = find_layout(name) if name else choose(request.source).layout
    found = others(request.source, chosen)
    if name is None:
        by = chosen.recognize(request.source)
        print(f"recognized layout {chosen.name} by {by}: {chosen.about}; it makes: {chosen.corpora}", flush=True)
        for other in found:
            print(f"  under layout {other.layout.name} it would be {counted(request, other.layout)}", flush=True)
        for path in lists_in(request.source) if chosen.generic and chosen.name != "list" else ():
            print(
                f"  {path.name} looks like a list of images, and is not read; SOURCE={path} takes labels and splits from it",
                flush=True,
            )
    elif chosen.generic:
        for other in (other for other in found if not other.layout.generic):
            what = f"{request.source} looks like layout {other.layout.name} (by {other.by}), which makes"
            print(f"note: {what}: {other.layout.corpora}", flush=True)
    return chosen


REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def _local_source(source: str) -> Path:
    if REMOTE.match(source):
        raise argparse.ArgumentTypeError(
            f"{source}: sources are read from a disk or a mounted bucket (mount-s3, gcsfuse, rclone mount), not by URL; "
            "nothing was started"
        )
    return Path(source)


def _local(out: str) -> Path:
    if REMOTE.match(out):
        raise UserError(
            f"--out {out}: corpora are built on a disk, and copied when they are complete; give a folder, then copy it with the "
            "tools of your storage, manifest.json last: it is the mark of a complete corpus. Training reads it from there"
        )
    return Path(out)


def _layouts(options: argparse.Namespace) -> int:
    print(table())
    return 0


def _demo(options: argparse.Namespace) -> int:
    build_demo(options.out, load(Demo, options.settings))
    return 0


def parse_part(text: str) -> BuildPart:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"expected NUMBER/COUNT with 1 <= NUMBER <= COUNT, found {text!r}")
    return BuildPart(int(number) - 1, int(count))


def part_of(environment: Mapping[str, str]) -> BuildPart:
    """The part of this process by the rank that torchrun or SLURM (a step of srun) gave it; all of it without them."""
    if "RANK" in environment:
        return BuildPart(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
    if "SLURM_STEP_ID" in environment:
        return BuildPart(int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"]))
    return BuildPart()


if __name__ == "__main__":
    multiprocessing.set_forkserver_preload([f"{__package__}.shard", "torch"])
    sys.exit(main(sys.argv[1:]))
