from .config import MiningConfig as MiningConfig
from .generations import Generation as Generation
from .generations import Generations as Generations
from .miner import Miner as Miner
from .search.index import ShardedIndex as ShardedIndex
from .search.select import select_negatives as select_negatives
