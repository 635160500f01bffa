"""The mining service: torchrun --nproc-per-node N launch/mine.py RUN_DIRECTORY [timeout=SECONDS], beside launch/train.py

It follows a run whose settings say mining.home=service, and ends with it. `--help` lists the settings.
"""

from pathlib import Path

from largescale.config import explain, load, run_program
from largescale.mining.config import ServiceConfig
from largescale.settings import UserError

USAGE = "RUN_DIRECTORY [key=value ...] [--help]"


def main(arguments: list[str]) -> None:
    if "--help" in arguments:
        print(explain(ServiceConfig, "launch/mine.py", USAGE))
        return
    if not arguments or "=" in arguments[0] or arguments[0].startswith("-"):
        raise UserError(f"which run? usage: torchrun --nproc-per-node N launch/mine.py {USAGE}")
    if "://" in arguments[0]:
        raise UserError(f"{arguments[0]}: a run directory is a folder that training and mining share (local, NFS), no URL")
    follow(Path(arguments[0]), load(ServiceConfig, arguments[1:]))


def follow(directory: Path, config: ServiceConfig) -> None:
    from largescale.distributed import StopSignal, World
    from largescale.mining.service import Service

    world = World.start(config.timeout, config.timeout)
    signal = StopSignal(world)
    reason = Service(directory, world, lambda: signal.received).follow()
    if world.is_first:
        print(f"the service of {directory} ends: {reason}")
    world.stop()


if __name__ == "__main__":
    run_program(main)
