"""`python -m tests.torture [kills=200] [flips=1000] [pause=60] [reads=30]`, by hand and nightly: the tables of the docs."""

import shutil
import sys
import tempfile
from pathlib import Path

from tests.evaluation.small import alone
from tests.torture import flips, kills, proxy


def main(arguments: list[str]) -> None:
    asked = {"kills": 200, "flips": 1000, "pause": 60, "reads": 30} | {
        key: int(value) for key, value in (pair.split("=") for pair in arguments)
    }
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    if asked["flips"]:
        with alone() as world:
            kinds = flips.build_kinds(folder / "flips", world)
            found = flips.flips(kinds, -(-asked["flips"] // len(kinds)))
        print(flips.table(found), flush=True)
        assert not any(of["altered"] or of["traceback"] for of in found.values())
    if asked["reads"]:
        read = proxy.everything(folder / "proxy", asked["reads"])
        print(proxy.table(read), flush=True)
        assert not any(outcomes["altered"] or outcomes["traceback"] for _, outcomes in read.values())
    if asked["kills"]:
        counts = {}
        for name, of_stage in kills.everything(folder / "kills", asked["kills"], asked["pause"]):
            counts[name] = of_stage
            print(name, dict(of_stage), flush=True)
        print(kills.table(counts), flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
