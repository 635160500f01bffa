"""Compares methods: launch/experiment.py EXPERIMENT.yaml [key=value ...]

Trains every method from every seed under the same number of images, scores all on the same queries, and writes one table
and a page that plots it. The same command goes on where it was stopped; `--help` lists the settings.
"""

import sys
from itertools import groupby

from largescale.config import asked, explain, load
from largescale.experiments.config import ExperimentConfig, Point
from largescale.experiments.runs import ExperimentRun, FailedError, plan_runs
from largescale.program.cli import called
from largescale.program.running import run_program
from largescale.settings import UserError

USAGE = f"{called('experiment')} EXPERIMENT.yaml [key=value ...] [--help [GROUP]]"


def main(arguments: list[str]) -> None:
    if (group := asked(arguments)) is not None:
        print(explain(ExperimentConfig, USAGE, (), group or "all"))
        return
    config = load(ExperimentConfig, arguments)
    runs = plan_runs(config)  # from here on with torch: what is wrong with the settings alone was said at once

    from largescale.experiments.page import write_page
    from largescale.experiments.table import table_of, write_table

    failed, written = set[Point](), ""
    for _, of_seed in groupby(enumerate(runs, 1), key=lambda numbered: numbered[1].seed):
        for number, run in of_seed:
            if run.point not in failed and not succeeds(run, f"{number} of {len(runs)}"):
                failed.add(run.point)
        done = [run for run in runs[:number] if not failed & {run.point, config.base(run.point)}]
        if done:
            rows = table_of(config, done)  # of the seeds so far
            table, page = write_table(config, rows), write_page(config, rows)
            written = f"{table.read_text()}\ntable: {table}\npage: {page}"
    print(written)
    if failed:
        names = ", ".join(sorted(point.name for point in failed))
        raise UserError(f"not in the table for a run that failed: {names} (see above); the same command tries again")


def succeeds(run: ExperimentRun, place: str) -> bool:
    """Train and evaluate; what fails is said, and does not keep the other methods from their table."""
    print(f"{place}: {run.point.name}, seed {run.seed}", flush=True)
    try:
        run.go()
    except FailedError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return False
    return True


if __name__ == "__main__":
    run_program(main)
