"""How the processes of a job find each other, before jax is told of them.

Process 0 listens at the coordinator's address. Each other process says its number and how many
there are, and waits for one line: that all are there, or why the job cannot begin. Then jax's own
service takes the address; the lines between process 0 and the others stay open, so that each hears
of one that ends without a word (`watch`).

jax alone would end each process by an abort with a dump of its threads where one is missing, where
two have the same number, or where they do not agree on how many they are.
"""

import contextlib
import re
import select
import socket
import time
from collections.abc import Iterable

from parallel.processes import JobError

GREETING, ALL_HERE = "scorefield: ", "all here"
# Seconds that process 0 waits for what a caller has to say, and between two calls of a process.
PATIENCE, PAUSE = 5.0, 0.1
NAMED = 10  # missing processes that a sentence counts up
Lines = dict[int, socket.socket]


def meet(host: str, port: int, count: int, index: int, timeout: float) -> Lines:
    """Returns when all `count` processes of a job are there; `index` is the number of this one.

    Args:
        host, port: where process 0 listens, on all of its addresses.
        timeout: seconds that process 0 waits for the others, and each of them for process 0.

    Returns:
        The open lines, by the number of the process at the other end: of process 0 to all others,
        of another to process 0.

    Raises:
        JobError: the same sentence on all processes that have come, where one is missing, two have
            one number, or their counts differ; where the port is not free; where nobody answers.
    """
    if count == 1:
        return {}
    if index == 0:
        return receive(host, port, count, timeout)
    return {0: call(host, port, count, index, timeout)}


def receive(host: str, port: int, count: int, timeout: float) -> Lines:
    """Process 0: waits for the others, and tells them how it went."""
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
    """A socket on all addresses of this machine, as jax's service has it."""
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
    """Adds a process that called to those that are here; anybody else is passed over."""
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
    """Those that still wait. A process says nothing more, so what is to be read is its end."""
    ended = select.select(here.values(), [], [], 0)[0] if here else []
    return {index: caller for index, caller in here.items() if caller not in ended}


def tell(lines: Iterable[socket.socket], said: str) -> None:
    """Says one line to each; a process that is gone need not know."""
    for line in lines:
        with contextlib.suppress(OSError):
            line.sendall(f"{GREETING}{said}\n".encode())


def heard(line: socket.socket) -> str:
    """The next thing that is said there; "" where it ends, or where none of us speaks."""
    said = b""
    with contextlib.suppress(OSError):
        # Byte by byte: what comes behind the line stays to be heard.
        while len(said) < 2000 and (byte := line.recv(1)) not in (b"", b"\n"):
            said += byte
    text = said.decode(errors="replace")
    return text.removeprefix(GREETING) if text.startswith(GREETING) else ""


def call(host: str, port: int, count: int, index: int, timeout: float) -> socket.socket:
    """Another process: calls process 0 until it answers, and waits for its word."""
    deadline, cause = time.monotonic() + timeout, "no answer"
    while time.monotonic() < deadline:
        try:
            left = max(deadline - time.monotonic(), 1e-3)
            line = socket.create_connection((host, port), min(left, PATIENCE))
        except OSError as error:
            cause = error.strerror or str(error)
        else:
            tell([line], f"{index} of {count}")
            # Once there, process 0 has begun to count its own time.
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
    """`"number 2"`, `"numbers 2, 5"`, or the first of many."""
    more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
    return f"number{'s' * (len(absent) > 1)} {', '.join(map(str, absent[:NAMED]))}{more}"
