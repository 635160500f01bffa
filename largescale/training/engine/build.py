"""The engine that a configuration names."""

from largescale.training.engine.engine import DDPEngine, Engine
from largescale.training.engine.step_module import StepModule
from largescale.training.settings.config import EngineConfig, OptimConfig


def build_engine(config: EngineConfig, optim: OptimConfig, module: StepModule) -> Engine:
    """The engine that the configuration names, around `module`, on the device of its world."""
    if config.kind == "ddp":
        return DDPEngine(module, config, optim)
    from largescale.training.engine.deepspeed import DeepSpeedEngine

    return DeepSpeedEngine(module, config, optim)
