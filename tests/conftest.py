"""Fixtures of the whole suite."""

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.programs import preload

ROOT = Path(__file__).parents[1]
# several workers share the cores, and the programs that they start inherit this
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start whole programs come first, long ones before: what takes long must not begin when all else is done."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.parent.name not in ("distributed", "launch", "training"), -tests[item.path]))


def pytest_collection_finish(session: pytest.Session) -> None:
    preload(programs=any(item.get_closest_marker("slow") or item.get_closest_marker("distributed") for item in session.items))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What runs remember of verified shards stays out of the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs, ground truths and weights, which are not part of the repository."""
    folder = Path(os.environ.get("LARGESCALE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.exists():
        pytest.skip(f"no real data at {folder}; set LARGESCALE_DATA to test on it")
    return folder
