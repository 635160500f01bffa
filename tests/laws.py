"""Laws that bind several parts, each checked by one helper."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, through lists, tuples, dictionaries, arrays and tensors."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def check_resume(run_from: Callable[[int], Iterable[Any]], starts: Iterable[int]) -> None:
    """What comes from step k on is what an uninterrupted run gives after k steps."""
    whole = list(run_from(0))
    for start in starts:
        rest = list(run_from(start))
        assert len(rest) == len(whole) - start, f"from step {start}: {len(rest)} steps, expected {len(whole) - start}"
        for number, (expected, found) in enumerate(zip(whole[start:], rest, strict=True), start):
            assert same(expected, found), f"from step {start}: step {number} differs"


def check_coverage(parts: Iterable[Iterable[int]], expected: Iterable[int]) -> None:
    """Over all ranks and workers, each image exactly once."""
    seen, wanted = Counter(int(image) for part in parts for image in part), {int(image) for image in expected}
    twice = sorted(image for image, times in seen.items() if times > 1)
    assert not twice, f"visited more than once: {twice[:10]}"
    assert seen.keys() == wanted, f"missed {sorted(wanted - seen.keys())[:10]}, unasked {sorted(seen.keys() - wanted)[:10]}"


def check_shares(whole: np.ndarray, share_of: Callable[[int, int], np.ndarray], sizes: Iterable[int] = (1, 2, 3, 4)) -> None:
    """The parts that ranks take, side by side, are the whole, for every world size."""
    for size in sizes:
        parts = [share_of(rank, size) for rank in range(size)]
        assert same(np.concatenate(parts, axis=1), whole), f"{size} ranks together do not read the plan"
