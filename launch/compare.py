"""Compares two evaluations query by query: python launch/compare.py A B [OUT], folders with results.json in or below them

Prints what B gains over A with its interval, the sign-flip p, and wins and losses; writes pages with both rankings of every
query to OUT (default: B/compared).
"""

from pathlib import Path

from largescale.program.cli import called
from largescale.program.running import run_program
from largescale.settings import UserError


def main(arguments: list[str]) -> None:
    if "--help" in arguments:
        print(str(__doc__).replace("python launch/compare.py", called("compare")))
        return
    if len(arguments) not in (2, 3):
        raise UserError(f"expected two folders of results and perhaps one for the pages, found {len(arguments)} arguments")
    from largescale.evaluation.report import write_comparison
    from largescale.evaluation.scoring.compare import compare_results, pairs, table

    a, b = map(Path, arguments[:2])
    both = pairs(a, b)
    lines = compare_results(both)
    print(f"A: {a}\nB: {b}\n{table(lines)}")
    print(f"\npages: {write_comparison(both, lines, Path(arguments[2]) if len(arguments) == 3 else b / 'compared')}")


if __name__ == "__main__":
    run_program(main)
