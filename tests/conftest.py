"""Fixtures of the whole suite, and how its processes begin."""

import os
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

# several workers share the cores, and the programs that they start inherit this; torch reads it as it is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
# what one process has compiled the others need not
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

from tests.programs import start_server  # noqa: E402

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start whole programs come first, long ones before: what takes long must not begin when all else is done."""
    tests = Counter(item.path for item in items)
    items.sort(
        key=lambda item: (item.path.relative_to(ROOT).parts[1] not in ("distributed", "launch", "training"), -tests[item.path])
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, bool, bool]:
    """Programs write where tests do, and what runs remember of verified shards stays out of the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(session.config._tmp_path_factory.mktemp("cache"))  # type: ignore[attr-defined]
    capture = session.config.pluginmanager.getplugin("capturemanager")
    capture.resume_global_capture()
    start_server(session.items)
    capture.suspend_global_capture()
    return (yield)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs, ground truths and weights, which are not part of the repository."""
    folder = Path(os.environ.get("LARGESCALE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.exists():
        pytest.skip(f"no real data at {folder}; set LARGESCALE_DATA to test on it")
    return folder
