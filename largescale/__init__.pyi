from .describing.model import Model as Model
from .describing.model import load as load
from .search.index import Hit as Hit
from .search.index import Index as Index
from .training.settings.recipe import TrainConfig as TrainConfig
from .training.train import train as train
