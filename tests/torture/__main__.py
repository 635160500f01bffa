"""The tables of the docs, by hand and nightly.

`python -m tests.torture [kills=200] [flips=1000] [pause=60] [reads=30] [disks=6] [cold=1]
[stages=NAME,NAME]`: with `cold=1` processes that are killed import all that they need, instead of coming from a server that has.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.torture import left

DEFAULTS = {"kills": 200, "flips": 1000, "pause": 60, "reads": 30, "disks": 6, "cold": 0}


def main(arguments: list[str]) -> None:
    given = dict(pair.split("=") for pair in arguments)
    only = [*filter(None, given.pop("stages", "").split(","))]
    asked = DEFAULTS | {key: int(value) for key, value in given.items()}
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    if asked["flips"]:
        from tests.evaluation.small import alone
        from tests.torture import flips

        with alone() as world:
            kinds = flips.build_kinds(folder / "flips", world)
            found = flips.flips(kinds, -(-asked["flips"] // len(kinds)))
        print(flips.table(found), flush=True)
        assert not any(of["altered"] or of["traceback"] for of in found.values())
    if asked["reads"]:
        from tests.torture import proxy

        read = proxy.everything(folder / "proxy", asked["reads"])
        print(proxy.table(read), flush=True)
        assert not any(outcomes["altered"] or outcomes["traceback"] for _, outcomes in read.values())
    if asked["disks"]:
        from tests.torture import disk

        of_disks = {}
        for name, of_stage in disk.everything(folder / "disks", asked["disks"], only):
            of_disks[name] = of_stage
            print(name, dict(of_stage), flush=True)
        print(disk.table(of_disks), flush=True)
    if asked["kills"]:
        from tests.torture import kills

        counts = {}
        for name, of_stage in kills.everything(folder / "kills", asked["kills"], asked["pause"], only, bool(asked["cold"])):
            counts[name] = of_stage
            print(name, dict(of_stage), flush=True)
        print(kills.table(counts), flush=True)
    shutil.rmtree(folder)


def watch(arguments: list[str]) -> int:
    """The same in a process of its own, and what is left when that has ended."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        status, found = left.run([sys.executable, "-m", "tests.torture", *arguments], Path(folder))
    for kind, names in found.items():
        print(f"left behind, {kind}: {', '.join(names[:20]) or 'nothing'}", flush=True)
    return status or int(any(found.values()))


if __name__ == "__main__":
    if left.MARK in os.environ:
        main(sys.argv[1:])
    else:
        sys.exit(watch(sys.argv[1:]))
