from .checkpoint import Checkpoint as Checkpoint
from .checkpoint import Checkpoints as Checkpoints
from .ema import WeightAverage as WeightAverage
from .engine import Engine as Engine
from .engine import Update as Update
from .engine import build_engine as build_engine
from .module import Batch as Batch
from .module import StepModule as StepModule
