"""How benchmarks say what they measured: ours against a peer or a limit in the same run, as a ratio with a goal."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple


class Row(NamedTuple):
    name: str
    ours: float
    """Of the same unit as `peer`, which `name` tells."""
    peer: float
    goal: float
    """The ratio ours / peer to reach; for times (`smaller_is_better`), the ratio to stay below."""
    smaller_is_better: bool = False

    @property
    def ratio(self) -> float:
        return self.ours / self.peer

    @property
    def ok(self) -> bool:
        return self.ratio <= self.goal if self.smaller_is_better else self.ratio >= self.goal


def median_seconds(action: Callable[[], object], rounds: int = 5, clock: Callable[[], float] = time.perf_counter) -> float:
    """
    Args:
        clock: `time.process_time` for seconds of this process.
    """
    taken = []
    for _ in range(rounds):
        start = clock()
        action()
        taken.append(clock() - start)
    return statistics.median(taken)


def in_turns(ours: Callable[[], object], peer: Callable[[], object], rounds: int = 5) -> Iterator[tuple[str, float, float]]:
    """Seconds of two actions that take turns, so that what else the machine does meets both.

    Returns:
        `s` by the clock on the wall, and `CPU s` of the processors: as many times the peer's median as the median of the rounds'
        ratios, and that median.
    """
    rounds_of = [(both_seconds(ours), both_seconds(peer)) for _ in range(rounds)]
    for place, unit in enumerate(("s", "CPU s")):
        pairs = [(a[place], b[place]) for a, b in rounds_of]
        of_peer = statistics.median(b for _, b in pairs)
        yield unit, of_peer * statistics.median(a / b for a, b in pairs), of_peer


def both_seconds(action: Callable[[], object]) -> tuple[float, float]:
    """Of the clock on the wall, and of the processors of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def report(rows: Iterable[Row]) -> bool:
    """Print `name | ours | peer or limit | ratio | goal | ok`, a line as soon as a row is measured; whether all are ok."""
    print(f"{'name':<72} | {'ours':>10} | {'peer/limit':>10} | {'ratio':>7} | {'goal':>7} | ok", flush=True)
    good = True
    for row in rows:
        goal = f"{'<=' if row.smaller_is_better else '>='} {row.goal:g}"
        mark = "yes" if row.ok else "NO"
        print(f"{row.name:<72} | {row.ours:>10.4g} | {row.peer:>10.4g} | {row.ratio:>7.3f} | {goal:>7} | {mark}", flush=True)
        good &= row.ok
    return good
