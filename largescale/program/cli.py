"""Every program of the project under one name: `largescale train …` is `python launch/train.py …`.

On several processes: `largescale torchrun --nproc-per-node 2 -m largescale train …`, or with torchrun itself.
"""

import importlib
import runpy
import sys
from pathlib import Path
from typing import Any

from largescale.config.help import HELP
from largescale.config.keys import nearest
from largescale.program.running import run_program
from largescale.settings import UserError

PROGRAMS = {
    "shards": "make a corpus from a source of images; check one; make the demo corpora",
    "train": "train a network",
    "mine": "the mining service beside a training",
    "rates": "find a learning rate: one short run in which it grows",
    "evaluate": "score a network",
    "study": "measure beside the scores",
    "compare": "two results, query by query",
    "experiment": "train and compare several methods",
    "embed": "descriptors of any images",
    "search": "build, search and serve an index",
    "export": "a network as a model folder, ONNX, or for C++",
    "demo": "the whole path on the demo corpora",
    "torchrun": "a program on several processes, as torchrun starts it, without its report after a sentence of ours",
}


ROOT = Path(__file__).parents[2]
"""Of a checkout; where the project is installed, a folder of packages."""


def module_of(program: str) -> str:
    """Its module: at the top of a checkout, below `largescale` where the project is installed."""
    name = program if program == "shards" else f"launch.{program}"
    return name if (ROOT / "launch").is_dir() else f"largescale.{name}"


def command(program: str) -> list[str]:
    """What starts a program in a process of its own, up to its arguments."""
    return [sys.executable, "-m", "largescale", program]


def recipe(name: str) -> Path:
    """A file of configs/: beside the package in a checkout, in it where the project is installed."""
    folder = next(folder for folder in (ROOT, ROOT / "largescale") if (folder / "configs").is_dir())
    return folder / "configs" / f"{name}.yaml"


def called(program: str) -> str:
    """How a person calls a program that runs in one process."""
    in_checkout = "python -m shards" if program == "shards" else f"python launch/{program}.py"
    return f"largescale {program}" if _by_name() else in_checkout


def for_torchrun(program: str) -> str:
    """How a person names a program to torchrun, or to Python."""
    return f"-m largescale {program}" if _by_name() else f"launch/{program}.py"


def _by_name() -> bool:
    """Whether programs have no files to be named by, or this one was started by its name."""
    return not (ROOT / "launch").is_dir() or sys.argv[0].startswith("largescale ")


def import_shards(name: str) -> Any:
    """A module of the shard builders, by its name below them."""
    sys.path.append(str(ROOT))
    return importlib.import_module(f"{module_of('shards')}.{name}")


def main() -> None:
    """The console script."""
    run_program(_main)


def _main(arguments: list[str]) -> None:
    name = arguments[0] if arguments else "--help"
    if name in HELP:
        print("usage: largescale PROGRAM [arguments]; PROGRAM --help explains one", "", *_listed(), sep="\n")
        return
    if name not in PROGRAMS:
        raise UserError(
            f"there is no program {name!r}; did you mean {nearest(name, PROGRAMS)[0]}? known are {', '.join(PROGRAMS)}"
        )
    sys.argv = [f"largescale {name}", *arguments[1:]]
    sys.path.insert(0, str(ROOT))
    runpy.run_module(module_of(name), run_name="__main__", alter_sys=False)


def _listed() -> list[str]:
    return [f"  {name:12}{about}" for name, about in PROGRAMS.items()]
