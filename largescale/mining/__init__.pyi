from .config import MiningConfig as MiningConfig
from .generations import Generation as Generation
from .generations import Generations as Generations
from .index import ShardedIndex as ShardedIndex
from .miner import Miner as Miner
from .select import select_negatives as select_negatives
