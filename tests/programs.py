"""Programs of the project as real processes, forked from the process of the tests as it was before the first of them.

It has imported already what each would import for seconds; so have the members of worlds and the workers of loaders.

They get arguments, environment, working directory and output as programs do, and what they start themselves with this Python
(ranks of torchrun, trainings of an experiment) is forked from them in turn. What depends on the imports, on the hash seed or on
the very beginning of a process is tested with `subprocess`.
"""

import atexit
import ctypes
import faulthandler
import gc
import importlib
import inspect
import os
import random
import runpy
import select
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing import forkserver, process, resource_tracker, util
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from largescale.testing.worlds import PRELOAD, WARM

ROOT = Path(__file__).parents[1]
HANDLER = "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler"
"""Of torchrun: starts its ranks."""
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
"""Of `subprocess.Popen`, in its order."""
CLONE_NEWNET = 0x40000000
"""From linux/sched.h."""
MAIN = process.current_process()
"""The main process, in the process that programs are forked from."""
LOADERS = ("tests.programs", "largescale.corpus.loading", "shards.shard")
PROGRAMS = ("torch.distributed.run", "largescale.training.train", "largescale.evaluation.stage", "largescale.experiments.runs")
forkserver.set_forkserver_preload = lambda modules: None  # what others ask for is among these, and there is one for all


def start_server(items: Sequence[pytest.Item]) -> None:
    """Start the process from which programs, members of worlds and workers of loaders are forked: this one, as it is now.

    What all programs import, and worlds, is imported before the first of them, if these tests have any.
    """
    programs = any(item.get_closest_marker("slow") or item.get_closest_marker("distributed") for item in items)
    modules = [*LOADERS, *([*PRELOAD, HANDLER, *PROGRAMS] if programs else [])]
    forkserver._forkserver.set_forkserver_preload(modules)  # type: ignore[attr-defined]
    gc.collect()
    gc.freeze()  # what is imported stays: no collection goes through it again
    util.spawnv_passfds = _fork_server  # type: ignore[assignment]
    try:
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = _execute


class Program:
    """A running program, with the methods of `subprocess.Popen` that tests use.

    Args:
        command: begins with this Python.
        apart: standard error comes as a stream of its own; else both are one.
        session: it leads a session of its own.
        network: the file of a network namespace that it lives in.
    """

    def __init__(
        self,
        command: Sequence[object],
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        apart: bool = False,
        session: bool = False,
        network: Path | None = None,
    ) -> None:
        self.args = [str(part) for part in command]
        assert self.args[0] == sys.executable
        streams = [WARM.Pipe(duplex=False) for _ in range(1 + apart)]
        writers = [writer for _, writer in streams]
        place = (str(cwd), session, network)
        self._process = WARM.Process(target=_begin, args=(self.args, dict(env or os.environ), *place, writers))
        self._process.start()
        for writer in writers:
            writer.close()
        self._readers = [os.fdopen(os.dup(reader.fileno()), errors="replace") for reader, _ in streams]
        self.stdout = self._readers[0]
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to the standard output and to the standard error, after its end."""
        told = ["", ""]
        threads = [threading.Thread(target=_read, args=(reader, told, i), daemon=True) for i, reader in enumerate(self._readers)]
        for thread in threads:
            thread.start()
        self.wait(timeout)
        for thread in threads:
            thread.join(timeout)
        return told[0], told[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def run(
    command: Sequence[object], env: Mapping[str, str] | None = None, cwd: Path = ROOT, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """A program that ends by itself; it is killed when it does not end in time."""
    program = Program(command, env, cwd, apart=True)
    try:
        out, errors = program.communicate(timeout)
    finally:
        program.kill()
    return subprocess.CompletedProcess(program.args, program.wait(), out, errors)


def _read(reader: Any, told: list[str], number: int) -> None:
    try:
        told[number] = reader.read()
    except ValueError:  # closed: somebody has read it
        return


def _begin(
    command: list[str], env: dict[str, str], folder: str, session: bool, network: Path | None, writers: list[Connection]
) -> None:
    if session:
        os.setsid()
    if network is not None:
        with network.open() as file:
            assert ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    for number, writer in enumerate((writers[0], writers[-1]), 1):
        os.dup2(writer.fileno(), number)
    _forget_files()
    _become(command, env, folder)


def _become(command: Sequence[str], env: Mapping[str, str], folder: str | None) -> None:
    """This forked process becomes the program; it does not come back."""
    os.environ.clear()
    os.environ.update(env)
    if folder is not None:
        os.chdir(folder)
    _forget_relatives()
    random.seed()  # ranks that meet wait for times of their own
    subprocess.Popen = _Forked  # type: ignore[misc]
    util.spawnv_passfds = _fork_server  # type: ignore[assignment]
    importlib.import_module(HANDLER).Popen = _Forked  # type: ignore[attr-defined]
    # torchrun asks for its caller's name all the time; to find its source too is to search thousands of modules
    inspect.stack = partial(inspect.stack, context=0)  # type: ignore[assignment]
    status: Any = 0
    try:
        _interpret(list(command[1:]))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) or end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def _forget_files(keep: Sequence[int] = ()) -> None:
    """What inherited objects have open becomes the null device: they may close it at any time, and were its number free, it would
    be another's file by then (gloo's, which aborts the process)."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in {*map(int, os.listdir("/proc/self/fd"))} - {0, 1, 2, null, *keep}:
        os.dup2(null, number, inheritable=False)


def _forget_relatives() -> None:
    """It is the main process of a program: no parent by multiprocessing, no fork server, no tracker of resources."""
    forkserver._forkserver.__init__()  # type: ignore[attr-defined, misc]
    resource_tracker._resource_tracker.__init__()  # type: ignore[misc]
    if media := sys.modules.get("wandb.sdk.data_types._private"):  # timm imports it
        atexit.unregister(media.MEDIA_TMP.cleanup)  # others that are forked from there need it
        media.MEDIA_TMP._finalizer.detach()
    process._parent_process = None  # type: ignore[attr-defined]
    process._children = set()  # type: ignore[attr-defined]
    process._current_process = MAIN  # type: ignore[attr-defined]


def _interpret(arguments: list[str]) -> None:
    from largescale.processes import end_with_torchrun

    end_with_torchrun()  # as the import of largescale does
    if arguments[0] == "-u":
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
        arguments = arguments[1:]
    if arguments[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *arguments[2:]], os.getcwd()
        exec(arguments[1], sys.modules["__main__"].__dict__)
    elif arguments[0] == "-m":
        warnings.filterwarnings("ignore", module="runpy")
        sys.argv, sys.path[0] = arguments[1:], os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


_execute = util.spawnv_passfds


def _fork_server(path: bytes, arguments: Sequence[Any], keep: Sequence[int]) -> int:
    """A fork server is forked too, while its parent has no process group and its threads."""
    code = arguments[-1]
    if not code.startswith("from multiprocessing.forkserver") or torch.distributed.is_initialized():
        return _execute(path, arguments, keep)
    pid = os.fork()
    if pid == 0:
        try:
            _forget_pytest()
            _forget_files(keep)
            _forget_relatives()
            select.select(keep, [], [])  # nothing is imported for nobody
            exec(code, {})
        finally:
            os._exit(1)
    return pid


def _forget_pytest() -> None:
    """Its streams, and what it does about errors of threads and of destructors."""
    faulthandler.disable()
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        stream = os.fdopen(number, mode, 1, closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.unraisablehook, threading.excepthook = sys.__unraisablehook__, threading.__excepthook__
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]


class _Forked(subprocess.Popen):  # type: ignore[type-arg]
    """Popen, that forks where this Python would be executed again for a program or a module."""

    def _execute_child(self, *rest: Any) -> None:
        asked = inspect.signature(super()._execute_child).bind(*rest).arguments  # type: ignore[misc]
        command = [str(part) for part in asked["args"]] if isinstance(asked["args"], list | tuple) else []
        if command[:1] != [sys.executable] or command[1] == "-c" or asked["pass_fds"] or asked["preexec_fn"]:
            super()._execute_child(*rest)  # type: ignore[misc]
            return
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _take_place(command, asked)
        self._child_created = True
        self._close_pipe_fds(*(asked[name] for name in PIPES))  # type: ignore[attr-defined]


def _take_place(command: Sequence[str], asked: Mapping[str, Any]) -> None:
    try:
        if asked["start_new_session"]:
            os.setsid()
        for number, name in enumerate(("p2cread", "c2pwrite", "errwrite")):
            if asked[name] != -1:
                os.dup2(asked[name], number)
        _forget_files()
        _become(command, asked["env"] or dict(os.environ), asked["cwd"])
    finally:
        os._exit(1)
