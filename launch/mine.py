"""The mining service: torchrun --nproc-per-node N launch/mine.py RUN_DIRECTORY [timeout=SECONDS], beside launch/train.py

It follows a run whose settings say mining.home=service, and ends with it; a URL in place of the directory is the
mining.exchange of the run. `--plan pool=7.4e6 dim=2048 ranks=32` in place of the
run prints what a generation would cost, and what bounds it. `--help` lists the settings.
"""

import contextlib
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from largescale.config import asked, explain, load
from largescale.corpus.default import only_corpus
from largescale.mining.config import MiningConfig, PlanConfig, ServiceConfig
from largescale.program.cli import for_torchrun, import_shards
from largescale.program.running import run_program
from largescale.settings import UserError

if TYPE_CHECKING:
    from largescale.distributed import World

USAGE = f"torchrun --nproc-per-node N {for_torchrun('mine')} RUN_DIRECTORY_OR_URL | --plan [key=value ...] [--help]"


def main(arguments: list[str]) -> None:
    if asked(arguments) is not None:
        service, planned = (explain(kind, USAGE, (), "all") for kind in (ServiceConfig, PlanConfig))
        print(service, *planned.split("\n")[1:], sep="\n")
        return
    if "--plan" in arguments:
        plan(load(PlanConfig, [argument for argument in arguments if argument != "--plan"]))
        return
    if not arguments or "=" in arguments[0] or arguments[0].startswith("-"):
        raise UserError(f"which run? usage: {USAGE}")
    follow(arguments[0], load(ServiceConfig, arguments[1:]))


def follow(run: str, config: ServiceConfig) -> None:
    from largescale.distributed import StopSignal, World
    from largescale.mining.service.exchange import ServiceExchange
    from largescale.mining.service.service import Service

    with World.start(config.timeout, config.timeout) as world:
        signal, exchange = StopSignal(world), None
        directory = world.decide(lambda: working_folder(config, world)) if "://" in run else Path(run)
        if "://" in run and world.is_first:
            exchange = ServiceExchange(run, directory)
            exchange.start()
        try:
            reason = Service(directory, world, lambda: signal.received, exchange).follow()
        finally:
            if exchange is not None:
                exchange.stop()
                shutil.rmtree(directory)
        if world.is_first:
            print(f"the service of {run} ends: {reason}")


def working_folder(config: ServiceConfig, world: "World") -> Path:
    """A new one, for what the service exchanges with a URL."""
    if config.folder is None and world.size > world.local_size:
        raise UserError("the processes are on several machines: give a folder that they share, folder=PATH")
    return Path(tempfile.mkdtemp(prefix="mining-", dir=config.folder))


def plan(config: PlanConfig) -> None:
    from largescale.mining.cost.model import Rates, table

    given = {name: getattr(config, name) for name in ("decode", "forward", "search", "network", "cores", "gpu")}
    missing = [name for name, value in given.items() if value is None]
    measured = measure_here(config) if missing else given
    if measured is not None:
        print(table(config, Rates(**(given | {name: measured[name] for name in missing}))))


def measure_here(config: PlanConfig) -> dict[str, Any] | None:
    """The rates of this machine; on ranks other than the first None."""
    with tempfile.TemporaryDirectory() as folder:
        return measure_on(config.corpus or only_corpus() or pictures(config, Path(folder)), config)


def pictures(config: PlanConfig, folder: Path) -> str:
    """A corpus of noise of the size of photographs: what a plan measures with where there is no other."""
    import numpy as np
    from PIL import Image

    for number in range(config.sample):
        noise = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        path = folder / "images" / f"{number:04d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise).resize((512, 384), Image.Resampling.BICUBIC).save(path, quality=90)
    with contextlib.redirect_stdout(None):
        source = import_shards("sources.folder").Folder(folder / "images")
        import_shards("writer").build(source, folder / "corpus", workers=1)
    return str(folder / "corpus")


def measure_on(location: str, config: PlanConfig) -> dict[str, Any] | None:
    from largescale.corpus.config import ImagesConfig
    from largescale.corpus.loading import Corpus
    from largescale.distributed import World
    from largescale.mining.cost.calibration import measure
    from largescale.models.build import build_network
    from largescale.models.config import ModelConfig

    corpus = Corpus.open(location)
    with World.start() as world:
        network = build_network(ModelConfig(backbone=config.backbone, weights="none")).to(world.device)
        rates = measure(config, corpus, ImagesConfig(size=config.size), network, MiningConfig().batch_size, world)
        return asdict(rates) if world.is_first else None


if __name__ == "__main__":
    run_program(main)
