"""Compares methods: launch/experiment.py EXPERIMENT.yaml [key=value ...]

Trains every method from every seed under the same number of images, scores all on the same queries, and writes one table
and a page that plots it. The same command goes on where it was stopped; `--help` lists the settings.
"""

from itertools import groupby

from largescale.config import explain, load, run_program
from largescale.experiments.config import ExperimentConfig
from largescale.experiments.runs import Run, plan_runs


def main(arguments: list[str]) -> None:
    if "--help" in arguments:
        print(explain(ExperimentConfig, "launch/experiment.py"))
        return
    config = load(ExperimentConfig, arguments)
    runs = plan_runs(config)  # from here on with torch: what is wrong with the settings alone was said at once

    from largescale.experiments.page import write_page
    from largescale.experiments.table import table_of, write_table

    done: list[Run] = []
    for _, of_seed in groupby(runs, key=lambda run: run.seed):
        for run in of_seed:
            print(f"{len(done) + 1} of {len(runs)}: {run.point.name}, seed {run.seed}", flush=True)
            run.go()
            done.append(run)
        rows = table_of(config, done)  # of the seeds so far
        table, page = write_table(config, rows), write_page(config, rows)
    print(f"{table.read_text()}\ntable: {table}\npage: {page}")


if __name__ == "__main__":
    run_program(main)
