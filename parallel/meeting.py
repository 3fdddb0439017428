"""How the processes of a job find each other, before jax starts its own service.

Process 0 listens at the coordinator's address. Each other process sends its number and the number
of processes, and waits for one line, which says that all are there or why the job cannot begin.
Then jax's own service takes the address. The connections between process 0 and the others stay
open, so that each process learns when another one ends without a message (`watch`).

Without this meeting, jax aborts each process with a dump of its threads if a process is missing, if
two processes have the same number, or if they disagree on the number of processes.
"""

import contextlib
import re
import select
import socket
import time
from collections.abc import Iterable

from parallel.processes import JobError

GREETING, ALL_HERE = "scorefield: ", "all here"
# PATIENCE: seconds that process 0 waits for the message of a caller, and a caller for a connection.
# PAUSE: seconds between two calls of a process.
PATIENCE, PAUSE = 5.0, 0.1
NAMED = 10  # most missing processes that a sentence lists
Lines = dict[int, socket.socket]


def meet(host: str, port: int, count: int, index: int, timeout: float) -> Lines:
    """Wait until all `count` processes of a job are there; `index` is the number of this process.

    Args:
        host, port: the address at which process 0 listens, on all interfaces of its machine.
        timeout: seconds that process 0 waits for the others, and that each of them waits for it.

    Returns:
        The open connections by the number of the process at the other end. Process 0 has one to
        each other process, and every other process has one to process 0.

    Raises:
        JobError: with one sentence on all processes that are there, if a process is missing, two
            have the same number, or their counts differ; if the port is not free; if nobody
            answers.
    """
    if count == 1:
        return {}
    if index == 0:
        return receive(host, port, count, timeout)
    return {0: call(host, port, count, index, timeout)}


def receive(host: str, port: int, count: int, timeout: float) -> Lines:
    """Process 0: wait for the others, and send them the result."""
    here: Lines = {}
    deadline = time.monotonic() + timeout
    with listening(host, port) as server:
        try:
            while len(present(here)) < count - 1:
                server.settimeout(max(deadline - time.monotonic(), 1e-3))
                admit(server.accept()[0], here, count)
        except TimeoutError:
            here = present(here)
            absent = [i for i in range(1, count) if i not in here]
            reason = (
                f"Process 0 has waited {timeout:g} s at {host}:{port} for a job of {count} "
                f"processes, and {numbered(absent)} did not come; start every number from 0 to "
                f"{count - 1} with the same --coordinator and --num_processes, see that all of "
                "them reach that address, or wait longer with --join_timeout."
            )
            tell(here.values(), reason)
            raise JobError(reason) from None
        except JobError as error:
            tell(here.values(), str(error))
            raise
    tell(here.values(), ALL_HERE)
    return here


def listening(host: str, port: int) -> socket.socket:
    """Open a socket that listens on all interfaces of this machine, as jax's service does.

    Raises:
        JobError: the port cannot be used.
    """
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise JobError(
            f"--coordinator is {host}:{port}, and process 0 cannot listen at that port "
            f"({error.strerror or error}); give another port that is free here."
        ) from None


def admit(caller: socket.socket, here: Lines, count: int) -> None:
    """Add the process that called to `here`; a caller that is no process of a job is ignored.

    Raises:
        JobError: the process was given another count, or its number is taken.
    """
    caller.settimeout(PATIENCE)
    match = re.fullmatch("([0-9]{1,9}) of ([0-9]{1,9})", heard(caller))
    if match is None:
        caller.close()
        return
    index, total = int(match[1]), int(match[2])
    reason = ""
    if total != count:
        reason = (
            f"Process {index} was started with --num_processes {total}, and process 0 with "
            f"{count}; start all of them with the same number."
        )
    elif index in present(here):
        reason = (
            f"Two of the {count} processes were started with --process_id {index}; number them "
            f"from 0 to {count - 1}."
        )
    if reason:
        tell([caller], reason)
        raise JobError(reason)
    here[index] = caller


def present(here: Lines) -> Lines:
    """The processes that still wait. A waiting process sends nothing, so anything to read there is
    the end of its connection."""
    ended = select.select(here.values(), [], [], 0)[0] if here else []
    return {index: caller for index, caller in here.items() if caller not in ended}


def tell(lines: Iterable[socket.socket], said: str) -> None:
    """Send one line to each connection; those that are closed are ignored."""
    for line in lines:
        with contextlib.suppress(OSError):
            line.sendall(f"{GREETING}{said}\n".encode())


def heard(line: socket.socket) -> str:
    """Receive the next line of text, without the greeting; "" if the socket is closed, nothing
    comes in time, or the text has no greeting and is thus not from a process of a job."""
    said = b""
    with contextlib.suppress(OSError):
        # Byte by byte, so that what follows the line stays in the socket.
        while len(said) < 2000 and (byte := line.recv(1)) not in (b"", b"\n"):
            said += byte
    text = said.decode(errors="replace")
    return text.removeprefix(GREETING) if text.startswith(GREETING) else ""


def call(host: str, port: int, count: int, index: int, timeout: float) -> socket.socket:
    """On another process: call process 0 until it answers, and wait for its result.

    Raises:
        JobError: process 0 does not answer within `timeout` seconds, or reports a fault.
    """
    deadline, cause = time.monotonic() + timeout, "no answer"
    while time.monotonic() < deadline:
        try:
            left = max(deadline - time.monotonic(), 1e-3)
            line = socket.create_connection((host, port), min(left, PATIENCE))
        except OSError as error:
            cause = error.strerror or str(error)
        else:
            tell([line], f"{index} of {count}")
            # Process 0 has begun to count its own time before this connection.
            line.settimeout(timeout + PATIENCE)
            said = heard(line)
            if said == ALL_HERE:
                return line
            line.close()
            if said:
                raise JobError(said)
            cause = "what listens there has another language, or hung up"
        time.sleep(PAUSE)
    raise JobError(
        f"Process {index} of a job of {count} has waited {timeout:g} s for process 0 at "
        f"{host}:{port} ({cause}); start process 0 with the same --coordinator, see that this "
        "machine reaches that address, or wait longer with --join_timeout."
    )


def numbered(absent: list[int]) -> str:
    """`"number 2"`, `"numbers 2, 5"`, or the first NAMED numbers and how many more there are."""
    more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
    return f"number{'s' * (len(absent) > 1)} {', '.join(map(str, absent[:NAMED]))}{more}"
