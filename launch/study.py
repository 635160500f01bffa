"""Measures beside the scores: torchrun --nproc-per-node N launch/study.py NAME weights=FILE gallery=CORPUS [key=value ...]

NAME is one of those that `--help` lists; `NAME --help` lists its settings, which are those of an evaluation and its own.
Each prints a table and writes it to OUT with a page that plots it. Descriptors are embedded once. `conventions` takes a file of
rankings (`python launch/study.py conventions scores=FILE`) and neither weights nor a corpus.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from largescale.config import asked, chosen, explain, load
from largescale.evaluation.studies.config import (
    AnchorsConfig,
    ConventionsConfig,
    DecomposabilityConfig,
    DistractorsConfig,
    LeaksConfig,
    NeighborsConfig,
    PoolingConfig,
    ScalesConfig,
    StudyConfig,
)
from largescale.program.cli import called, for_torchrun
from largescale.program.running import run_program

if TYPE_CHECKING:
    from largescale.evaluation.report.study import Study

STUDIES: dict[str, type[StudyConfig] | type[ConventionsConfig]] = {
    "anchors": AnchorsConfig,
    "conventions": ConventionsConfig,
    "decomposability": DecomposabilityConfig,
    "distractors": DistractorsConfig,
    "leaks": LeaksConfig,
    "neighbors": NeighborsConfig,
    "pooling": PoolingConfig,
    "scales": ScalesConfig,
}

ABOUT = str(__doc__).replace("python launch/study.py", called("study")).replace("launch/study.py", for_torchrun("study"))


def main(arguments: list[str]) -> None:
    name = chosen(arguments, STUDIES, ABOUT, "study")
    if name is None:
        return
    if (group := asked(arguments)) is not None:
        first = ["weights", "model", "gallery", "out"] if issubclass(STUDIES[name], StudyConfig) else []
        own = [key for key in STUDIES[name].model_fields if key not in StudyConfig.model_fields or not first]
        usage = f"torchrun --nproc-per-node N {for_torchrun('study')} {name} [key=value ...] [--help [GROUP]]"
        print(explain(STUDIES[name], usage, [*first, *own], group))
        return
    run(name, load(STUDIES[name], arguments[1:]))


def run(name: str, config: StudyConfig | ConventionsConfig) -> None:
    if isinstance(config, ConventionsConfig):
        from largescale.evaluation.studies.conventions import compare_tools

        return show(compare_tools(config), config.out)
    from largescale.distributed import stoppable_world
    from largescale.evaluation.studies.studies import StudyContext, studies

    with stoppable_world() as (world, signal):
        study = studies[name](config, StudyContext(config, world, lambda: signal.received))
        if world.is_first:
            show(study, config.out)


def show(study: "Study", out: Path) -> None:
    print(f"{study.text()}\n\n{study.about}\npage: {study.write(out)}")


if __name__ == "__main__":
    run_program(main)
