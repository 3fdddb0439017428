"""Run the program as a user does, without a new interpreter for every call.

One server process imports `main` once and never uses a device. For each call it forks a child
that sets `sys.argv` and XLA's flags and runs `main` to its exit. So a test sees what the shell
would see: exit status, standard output, standard error, and files. Two children share no more than
two processes do.
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
    """Exit status, standard output and standard error of a call."""

    status: int
    out: str
    err: str


def inside(*argv) -> Result:
    """Run `main.py` in this process, for tests that do not need a process of their own.

    This saves time: a new process compiles again what an earlier one has compiled. Two things
    differ from `Program()`: the devices are those of the tests, and only what Python prints is
    captured. Flags and loggers are reset afterwards. Do not use it for jobs, nor for calls that
    kill the process.
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
    """Run the program and return its exit status."""
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
    """Restore the levels of the loggers that the program silences."""
    levels = {name: logging.getLogger(name).level for name in (None, "absl", "asyncio")}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


class Program:
    """`Program()(*argv)` runs `main.py`; `Program().script(text)` runs Python with it imported."""

    def __init__(self):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        # Flags of the caller for device count or buffering of output must not change a test.
        environment["XLA_FLAGS"] = QUICK
        environment.pop("PYTHONUNBUFFERED", None)
        self._folder = tempfile.TemporaryDirectory()
        # Children use the tests' cache of compiled programs.
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
        """Run the Python code `text` in such a process, with `argv` as `sys.argv[1:]`."""
        return self._call(argv, text, devices, ROOT)

    def job(self, processes: int, *argv, devices: int = 1, script: str | None = None):
        """Run a job of several processes on this machine; return their results by number."""
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
        """Return the description of one child that is sent to the server."""
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
    """Return standard error without XLA's lines about stored programs.

    On some CPUs XLA prints such a line for every stored program, although it was compiled on the
    same CPU (openxla/xla issue 44565).
    """
    return "".join(line for line in err.splitlines(True) if "XLA:CPU AOT result" not in line)
