"""Scores a network: torchrun --nproc-per-node N launch/evaluate.py weights=FILE gallery=CORPUS [key=value ...]

The same command continues an evaluation that was stopped. `--help` lists the settings; `--dry-run` prints the plan only.
"""

from typing import TYPE_CHECKING

from largescale.config import explain, load, run_program
from largescale.evaluation.config import EvaluateConfig
from largescale.settings import UserError

if TYPE_CHECKING:
    from largescale.distributed import World
    from largescale.evaluation.report import Pictures
    from largescale.evaluation.results import Interval, Results


def main(arguments: list[str]) -> None:
    if "--help" in arguments:
        print(explain(EvaluateConfig, "launch/evaluate.py"))
        return
    dry = "--dry-run" in arguments
    config = load(EvaluateConfig, [argument for argument in arguments if argument != "--dry-run"])
    if config.weights is None and config.descriptors is None:
        raise UserError("nothing to score: give weights=FILE, or descriptors=FILE.npy with names= and ground_truth=")
    run(config, dry)  # from here on with torch: what is wrong with the settings alone was said at once


def run(config: EvaluateConfig, dry: bool) -> None:
    from largescale.distributed import StopSignal, World
    from largescale.evaluation import Stopped, evaluate
    from largescale.evaluation.report import write_report

    world = World.start()
    signal = StopSignal(world)
    try:
        if config.weights is None:
            results = score_descriptors(config, world)
        elif dry:
            print_plan(config, world)
            return
        else:
            results = evaluate(config.weights, config, world, lambda: signal.received)
        if world.is_first:
            page = write_report(config.out, pictures(config))
            print(f"{table(results)}\n\nresults: {config.out / 'results.json'}\nreport: {page}")
    except Stopped:
        if world.is_first:
            print("stopped; the same command goes on from the shards that are done")
    finally:
        world.stop()


def score_descriptors(config: EvaluateConfig, world: "World") -> "Results":
    from largescale.evaluation import Published, evaluate_descriptors
    from shards.sources.landmarks import read_test_set

    assert config.ground_truth is not None
    found = read_test_set(config.ground_truth)
    values = {"protocol": found.protocol, "queries": found.queries, "gallery": found.images}
    return evaluate_descriptors(config, Published.parse(values, str(config.ground_truth)), world)


def pictures(config: EvaluateConfig) -> "Pictures | None":
    """Where the images of the report are; none where only descriptors were given."""
    from largescale.corpus.reading import Corpus
    from largescale.evaluation.report import Pictures

    if config.gallery is None:
        return None
    gallery, *distractors = (Corpus.open(location, config.storage) for location in (config.gallery, *config.distractors))
    return Pictures(Corpus.open(config.queries, config.storage) if config.queries else gallery, gallery, distractors)


def print_plan(config: EvaluateConfig, world: "World") -> None:
    from largescale.evaluation.plan import Plan

    if world.is_first:
        print(Plan.open(config).summary())


def table(results: "Results") -> str:
    """Percentages with their 95 % intervals: a line per protocol and number of distractors."""
    lines = [f"{'protocol':<26}{'distractors':>12}  {'metric':<16}{'%':>7}{'95 %':>18}  more"]
    for protocol in results.protocols:
        for point in protocol.distractor_curve:
            more = "  ".join(f"{name} {100 * x.value:.2f}" for name, x in list(point.metrics.items())[1:4])
            main = point.metrics[protocol.main]
            number = f"{100 * main.value:>7.2f}{interval(main):>18}"
            lines.append(f"{protocol.protocol:<26}{point.distractors:>12,}  {protocol.main:<16}{number}  {more}")
    return "\n".join(lines)


def interval(x: "Interval") -> str:
    return f"{100 * x.low:.2f} to {100 * x.high:.2f}"


if __name__ == "__main__":
    run_program(main)
