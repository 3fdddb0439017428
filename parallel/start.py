"""How a process joins its job, which a program does before anything else with jax."""

import atexit
import threading
from collections.abc import Callable

import jax

from parallel.meeting import Lines, meet
from parallel.processes import JobError
from parallel.watch import Watch

# The job ends if a process does not answer for this many seconds.
HEARTBEAT = 30
# Seconds by which jax's timeout is longer than the one here: jax would abort the process.
LATER = 3600
TIMEOUT = 300.0
# The watch of this process's job, once the process has joined one.
WATCHES: list[Watch] = []


def start(
    coordinator: str | None,
    count: int | None,
    index: int | None,
    timeout: float = TIMEOUT,
    missed: Callable[[str], None] = lambda gone: None,
) -> None:
    """Join this process to its job.

    Args:
        coordinator: `host:port` of process 0. If `coordinator`, `count` and `index` are all None,
            jax reads them from the environment (Slurm, Open MPI, Kubernetes, Cloud TPU, ...).
        count: number of processes of the job.
        index: number of this process, 0 to count - 1.
        timeout: seconds to wait for the others.
        missed: called in another thread with a sentence about a process that has ended
            unexpectedly. It is never called if jax reads the job from the environment, since then
            only jax knows the other processes.

    Raises:
        JobError: only some of the three arguments are given, no environment is recognised, a number
            is out of range, or the other processes do not come.
    """
    given = {"--coordinator": coordinator, "--num_processes": count, "--process_id": index}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < 3:
        raise JobError(
            f"{' and '.join(name for name in given if name not in missing)} came without "
            f"{' and '.join(missing)}; give all three, or none on a cluster that jax recognises."
        )
    if not 0.0 < timeout < float("inf"):
        raise JobError(f"--join_timeout is {timeout:g}; give seconds above 0.")
    lines: Lines = {}
    if not missing:
        lines = meet(*address(coordinator, count, index), count, index, timeout)
    try:
        connect(coordinator, count, index, timeout)
    except JobError:
        raise
    except (RuntimeError, ValueError) as error:
        cause = " ".join(str(error).split())[:200]
        mend = (
            "jax recognises no cluster here: give --coordinator HOST:PORT, --num_processes N and "
            "--process_id I"
            if missing
            else "look whether all processes were started and reach the coordinator"
        )
        raise JobError(f"The processes of the job did not come together ({cause}); {mend}.") from (
            error
        )
    WATCHES.append(Watch(lines, missed))
    atexit.register(part)


def part() -> None:
    """Say goodbye to the other processes, before an exit that skips the usual end of Python."""
    for watch in WATCHES:
        watch.part()


def address(coordinator: str, count: int, index: int) -> tuple[str, int]:
    """Host and port of process 0.

    Raises:
        JobError: `coordinator` is not `host:port`, or `index` is not from 0 to count - 1.
    """
    if not 0 <= index < count:
        raise JobError(
            f"--process_id is {index} and --num_processes {count}; number the processes from 0 to "
            f"{count - 1}."
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise JobError(
            f"--coordinator is {coordinator!r}; write HOST:PORT of process 0, such as "
            "10.0.0.1:8476."
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def connect(coordinator: str | None, count: int | None, index: int | None, timeout: float) -> None:
    """Call `jax.distributed.initialize` in a thread, which is abandoned after `timeout` seconds.

    Raises:
        JobError: the time is over.
        RuntimeError, ValueError: raised by jax.
    """
    raised = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                coordinator,
                count,
                index,
                initialization_timeout=int(timeout) + LATER,
                heartbeat_timeout_seconds=HEARTBEAT,
            )
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(timeout)
    if raised:
        raise raised[0]
    if thread.is_alive():
        expected = "as many as the cluster tells" if count is None else f"{count}"
        raise JobError(
            f"This process has waited {timeout:g} s for the others of its job ({expected} in all), "
            "and not all of them came; look whether every one was started, or wait longer with "
            "--join_timeout."
        )
