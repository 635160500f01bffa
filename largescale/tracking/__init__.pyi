from .config import TrackingConfig as TrackingConfig
from .mirrors import TrackedRun as TrackedRun
from .mirrors import histogram as histogram
from .replay import replay as replay
from .tracker import Reduce as Reduce
from .tracker import Tracker as Tracker
from .wandb import WandbMirror as WandbMirror
from .wandb import wanted as wanted
