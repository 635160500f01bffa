"""Describes pictures with a trained network: torchrun --nproc-per-node N launch/embed.py model=… source=… out=… [key=value ...]

The same command goes on where it was stopped, on any number of processes. `--help` lists the settings.
"""

from typing import TYPE_CHECKING

from largescale.config import asked, explain, load
from largescale.describing.config import EmbedConfig
from largescale.program.cli import for_torchrun, import_shards
from largescale.program.running import run_program

if TYPE_CHECKING:
    from largescale.distributed import StopSignal, World


USAGE = f"torchrun --nproc-per-node N {for_torchrun('embed')} model=… source=… out=… [key=value ...] [--help [GROUP]]"
COMMON = ("model", "source", "out", "format", "pairs", "batch_size")


def main(arguments: list[str]) -> None:
    if (group := asked(arguments)) is not None:
        print(explain(EmbedConfig, USAGE, COMMON, group))
        return
    config = load(EmbedConfig, arguments)
    run(config)  # from here on with torch: what is wrong with the settings alone was said at once


def run(config: EmbedConfig) -> None:
    from largescale.distributed import stoppable_world

    with stoppable_world() as (world, signal):
        embed(config, world, signal)


def embed(config: EmbedConfig, world: "World", signal: "StopSignal") -> None:
    import largescale
    from largescale.describing.program import claim, describe_source

    model = largescale.load(config.model, world.device)
    with claim(config, world):
        source = import_shards("in_place").open_source(config.source, config.out / "listing", world, config.storage)
        describe_source(model, source, config, world, lambda: signal.received)


if __name__ == "__main__":
    run_program(main)
