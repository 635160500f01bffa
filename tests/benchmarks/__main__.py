"""Runs every benchmark, one process each, one after the other: `make bench`, or `python -m tests.benchmarks reading mining`."""

import subprocess
import sys
from pathlib import Path


def main(chosen: list[str]) -> int:
    found = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    names = [f"bench_{name}" for name in chosen] or found
    unknown = set(names) - set(found)
    if unknown:
        print(f"no benchmark {sorted(unknown)}; there are {found}", file=sys.stderr)
        return 2
    failed = []
    for name in names:
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    print(f"\nbelow their goals: {', '.join(failed) or 'none'}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
