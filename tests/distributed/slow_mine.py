"""launch/mine.py whose first search takes its time after each query, and says in the run directory that it has begun."""

import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from largescale.mining import ShardedIndex

BEGUN = Path(sys.argv[1]) / "searching"
PAUSE_S = 0 if BEGUN.exists() else 0.5
search = ShardedIndex.search


def slow_search(self: ShardedIndex, queries: Any, excluded: Any, each_block: Callable[[int], None], *more: Any) -> Any:
    def pause(count: int) -> None:
        if PAUSE_S:
            BEGUN.touch()
        time.sleep(PAUSE_S)
        each_block(count)

    self.block = 1
    return search(self, queries, excluded, pause, *more)


if __name__ == "__main__":
    ShardedIndex.search = slow_search  # type: ignore[method-assign]
    runpy.run_path("launch/mine.py", run_name="__main__")
