from .model import Model as Model
from .model import load as load
from .search.index import Hit as Hit
from .search.index import Index as Index
