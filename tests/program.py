"""The program as a user runs it, without a new interpreter for every call.

One server process imports `main` once and never touches a device. For each call it forks a child
that sets `sys.argv` and the flags of XLA and runs `main` to its exit, so what is seen is what the
shell would see: exit status, standard output, standard error, and files. A child has no more in
common with the next one than two processes have.
"""

import contextlib
import io
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
from absl.testing import flagsaver
from compiling import QUICK

import main

ROOT = Path(__file__).resolve().parents[1]

SERVER = """
import atexit, json, os, sys, threading, traceback
import jax, main
from absl import app
sys.path.append("tests")
from compiling import compile_laws
from programs import check_programs

check_programs()
compile_laws()

def child(call):
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(call[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *call["xla"]])
    os.chdir(call["cwd"])
    status = 70
    try:
        if call["script"]:
            sys.argv = ["script", *call["argv"]]
            exec(compile(call["script"], "script", "exec"), {"__name__": "__main__"})
            status = 0
        else:
            sys.argv = ["main.py", *call["argv"]]
            app.run(main.main, flags_parser=main.parse_flags)
            status = 0
    except SystemExit as stop:
        # What the interpreter does at its own end.
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        # The end of an interpreter, at which the processes of a job wait for each other.
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

def fork(call):
    pid = os.fork()
    if pid == 0:
        child(call)
    return pid

print("ready", flush=True)
for line in sys.stdin:
    pids = [fork(call) for call in json.loads(line)]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    print(json.dumps(statuses), flush=True)
"""


class Result(NamedTuple):
    """How a call ended: its exit status, what it printed, and what it complained of."""

    status: int
    out: str
    err: str


def inside(*argv) -> Result:
    """`main.py` in this process, for what needs none of its own: most of a process is spent on
    compiling what the one before it has compiled.

    Everything is as `Program()` has it but the devices, which are those of the tests, and what
    others than Python print. Flags and loggers are afterwards what they were before. Not for jobs,
    nor for what kills the process.
    """
    out, err = io.StringIO(), io.StringIO()
    argv = ["main.py", *map(str, argv)]
    with pytest.MonkeyPatch.context() as patch, flagsaver.flagsaver(), loggers():
        patch.setattr(sys, "argv", argv)
        patch.setattr(sys, "unraisablehook", sys.unraisablehook)
        patch.chdir(ROOT)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = ends(argv)
    return Result(status, out.getvalue(), err.getvalue())


def ends(argv: list[str]) -> int:
    """The status with which the program ends."""
    try:
        main.main(main.parse_flags(argv))
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


@contextlib.contextmanager
def loggers() -> Iterator[None]:
    """Brings the levels of those back that the program silences."""
    levels = {name: logging.getLogger(name).level for name in (None, "absl", "asyncio")}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


class Program:
    """`Program()(*argv)` runs `main.py`; `Program().script(text)` runs Python with it imported."""

    def __init__(self):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        # A device count left by the caller, or how its output is kept back, must not decide what a
        # test sees.
        environment["XLA_FLAGS"] = QUICK
        environment.pop("PYTHONUNBUFFERED", None)
        self._folder = tempfile.TemporaryDirectory()
        # Children find their programs where the tests keep theirs.
        for name in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"):
            environment[name.upper()] = str(getattr(jax.config, name))
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        assert self._server.stdout.readline() == "ready\n"

    def __call__(self, *argv, devices: int = 1, cwd: Path = ROOT) -> Result:
        return self._call(argv, None, devices, cwd)

    def script(self, text: str, *argv, devices: int = 1) -> Result:
        """Runs `text`, whose `sys.argv[1:]` is `argv`, in such a process."""
        return self._call(argv, text, devices, ROOT)

    def job(self, processes: int, *argv, devices: int = 1, script: str | None = None):
        """The results of a job of several processes on this machine, by their numbers."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            coordinator = f"localhost:{free.getsockname()[1]}"
        argv = (*argv, "--distributed", "--coordinator", coordinator)
        job = ("--num_processes", processes, "--process_id")
        argvs = [(*argv, *job, i) for i in range(processes)]
        return self._run([self._describe(a, script, devices, ROOT, i) for i, a in enumerate(argvs)])

    def _call(self, argv, script, devices, cwd) -> Result:
        return self._run([self._describe(argv, script, devices, cwd)])[0]

    def _describe(self, argv, script, devices: int, cwd: Path, number: int = 0) -> dict:
        """One child, as the server is told of it."""
        xla = (f"--xla_force_host_platform_device_count={devices}",)
        call = {"argv": [str(a) for a in argv], "script": script, "xla": xla, "cwd": str(cwd)}
        return call | {k: str(Path(self._folder.name) / f"{k}_{number}") for k in ("out", "err")}

    def _run(self, calls: list[dict]) -> list[Result]:
        self._server.stdin.write(json.dumps(calls) + "\n")
        self._server.stdin.flush()
        statuses = json.loads(self._server.stdout.readline())
        read = lambda call, name: Path(call[name]).read_text()
        return [
            Result(status, read(call, "out"), heard(read(call, "err")))
            for status, call in zip(statuses, calls)
        ]

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()
        self._folder.cleanup()


def heard(err: str) -> str:
    """Without what XLA says on some CPUs of every stored program, though it was compiled there
    (openxla/xla issue 44565)."""
    return "".join(line for line in err.splitlines(True) if "XLA:CPU AOT result" not in line)
