from .checkpoints.checkpoint import Checkpoint as Checkpoint
from .checkpoints.checkpoint import Checkpoints as Checkpoints
from .engine.average import WeightAverage as WeightAverage
from .engine.build import build_engine as build_engine
from .engine.engine import Engine as Engine
from .engine.engine import Update as Update
from .engine.step_module import Batch as Batch
from .engine.step_module import StepModule as StepModule
