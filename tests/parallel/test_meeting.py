"""The processes of a job find each other, or all of them hear in one sentence why not."""

import contextlib
import os
import queue
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

from parallel.meeting import meet, numbered
from parallel.processes import JobError, of_another
from parallel.start import start
from parallel.watch import Watch


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def met(port, timeout=5.0, numbers=(0, 1, 2), counts=(3, 3, 3)):
    """What each process hears: "" where the job begins; one thread stands for a process."""

    def one(index, count):
        try:
            meet("localhost", port, count, index, timeout)
        except JobError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, numbers, counts))


def test_all_are_there(port):
    """In any order, and the port is free again, for jax's service."""
    assert met(port, numbers=(2, 0, 1)) == ["", "", ""]
    socket.create_server(("", port)).close()


def test_some_are_missing(port):
    """Those that came hear which ones, when the time is over, and not after that."""
    begin = time.monotonic()
    first, second = met(port, 0.4, numbers=(0, 3), counts=(5, 5))
    assert first == second and time.monotonic() - begin < 3.0
    assert re.match(
        f"Process 0 has waited 0.4 s at localhost:{port} for a job of 5 processes, and numbers "
        "1, 2, 4 did not come; start every number from 0 to 4",
        first,
    )
    (alone,) = met(port, 0.1, numbers=(0,), counts=(2,))
    assert "for a job of 2 processes, and number 1 did not come" in alone
    assert numbered(list(range(1, 30))) == "numbers 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 19 more"


def test_process_0_is_missing(port):
    (said,) = met(port, 0.3, numbers=(2,))
    assert said.startswith(
        f"Process 2 of a job of 3 has waited 0.3 s for process 0 at localhost:{port} (Connection "
        "refused); start process 0 with the same --coordinator"
    )


@pytest.mark.parametrize(
    "numbers, counts, sentence",
    [
        ((0, 1), (3, 2), "Process 1 was started with --num_processes 2, and process 0 with 3;"),
        ((0, 1, 1), (4, 4, 4), "Two of the 4 processes were started with --process_id 1;"),
    ],
)
def test_they_do_not_agree(port, numbers, counts, sentence):
    """All that came hear of it at once."""
    begin = time.monotonic()
    found = met(port, 20.0, numbers, counts)
    assert all(said.startswith(sentence) for said in found) and time.monotonic() - begin < 10.0


def test_the_port_is_taken(port):
    with socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True):
        (said,) = met(port, numbers=(0,))
    assert "process 0 cannot listen at that port (Address already in use" in said


def test_strangers_and_a_process_that_comes_again(port):
    """Who says nothing of use is passed over; one that died while it waited may come again."""
    lead = threading.Thread(target=meet, args=("localhost", port, 3, 0, 20.0))
    lead.start()
    for said in (b"GET / HTTP/1.1\n", b"", b"scorefield: 1 of 3\n"):
        while True:
            try:
                with socket.create_connection(("localhost", port)) as caller:
                    caller.sendall(said)
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
    assert met(port, numbers=(1, 2), counts=(3, 3)) == ["", ""]
    lead.join(5.0)
    assert not lead.is_alive()


def test_something_else_listens_there(port):
    with socket.create_server(("localhost", port)) as server:
        server.settimeout(0.5)

        def answer():
            with contextlib.suppress(TimeoutError):
                while True:
                    server.accept()[0].sendall(b"SSH-2.0\n")

        answering = threading.Thread(target=answer)
        answering.start()
        (said,) = met(port, 0.2, numbers=(1,))
        answering.join()
    assert "(what listens there has another language, or hung up); start process 0" in said


def test_a_cluster_whose_processes_do_not_come(monkeypatch):
    """There jax alone knows the address: what it waits for is left behind."""
    over = threading.Event()
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: over.wait(20.0))
    with pytest.raises(JobError, match=r"has waited 0\.2 s for the others of its job"):
        start(None, None, None, 0.2)
    over.set()
    for timeout in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(JobError, match="give seconds above 0"):
            start(None, None, None, timeout)


def test_the_program_says_so(program, tmp_path):
    """Each process of two ends by itself with one line, and with status 1; jax would abort."""
    argv = ["--config", "configs/digits_vp.py", "--workdir", tmp_path / "run", "--mode", "train"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    argv += ["--distributed", "--coordinator", coordinator, "--num_processes", 2]
    for index, sentence in ((0, "number 1 did not come"), (1, "Process 1 of a job of 2 has wait")):
        result = program(*argv, "--process_id", index, "--join_timeout", 0.5)
        assert result.status == 1 and result.err.startswith("JobError: ")
        assert sentence in result.err and result.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


# Process 1 dies while process 0 waits for its word.
DIES = """
import os, sys
from parallel.processes import lost, of_another, share
from parallel.start import start
from parallel.watch import Watch

coordinator, count, index = sys.argv[3], int(sys.argv[5]), int(sys.argv[7])
start(coordinator, count, index)
assert share(b"%d" % index) == [b"0", b"1"]
if index == 1:
    os._exit(9)
try:
    while True:
        share(b"still here")
except Exception as error:
    print(lost(error) if of_another(error) else repr(error), flush=True)
os._exit(1)
"""


def test_a_process_that_is_gone(program):
    """What a collective raises then is told from an error of this process."""
    first, second = program.job(2, script=DIES)
    assert (first.status, second.status) == (1, 9), first.err
    assert "Process 0 of 2 lost another one" in first.out
    assert not of_another(ValueError("no room")) and not of_another(OSError("Gloo"))


def company(port, count):
    """The open lines of each process of a job."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda i: meet("localhost", port, count, i, 5.0), range(count)))


@pytest.mark.parametrize("dies", [0, 1])
def test_one_that_ends_without_a_word_is_missed(port, dies):
    """By all others, whichever it is, though all but process 0 have a line to that one alone."""
    lines, heard = company(port, 3), [queue.Queue() for _ in range(3)]
    left = [i for i in range(3) if i != dies]
    for i in left:
        Watch(lines[i], heard[i].put)
    for line in lines[dies].values():  # as the system does for a process that is killed
        line.close()
    for i in left:
        assert heard[i].get(timeout=5.0).startswith(f"Process {dies} of the job ended without a")


def test_those_that_say_goodbye_are_not_missed(port, monkeypatch):
    """In any order; and a fork of one of them says nothing for it."""
    lines, heard = company(port, 3), queue.Queue()
    watches = [Watch(each, heard.put) for each in lines]
    with monkeypatch.context() as fork:
        fork.setattr(os, "getpid", lambda: -1)
        watches[1].part()
    for i in (2, 0):
        watches[i].part()
        for line in lines[i].values():
            line.shutdown(socket.SHUT_WR)
    with pytest.raises(queue.Empty):
        heard.get(timeout=0.2)
    lines[1][0].shutdown(socket.SHUT_WR)
    assert heard.get(timeout=5.0).startswith("Process 1 of the job ended without")


# Process 1 is killed while the others compute by themselves.
KILLED = """
import os, sys, time
import main
from absl import app

def build(config, reads):
    if sys.argv[-1] == "1":
        time.sleep(0.3)
        os.kill(os.getpid(), 9)
    time.sleep(60)

main.build = build
app.run(main.main, flags_parser=main.parse_flags)
"""


def test_a_process_that_is_killed_is_missed_at_once(program, tmp_path):
    """jax would miss it after 30 s, and abort the others."""
    argv = ["--config", "configs/digits_vp.py", "--workdir", tmp_path / "run", "--mode", "train"]
    begin = time.monotonic()
    first, second, third = program.job(3, *argv, script=KILLED)
    assert second.status == -9 and time.monotonic() - begin < 20.0
    for result in (first, third):
        assert result.status == 1 and result.err.count("\n") == 1
        assert result.err.startswith("JobError: Process 1 of the job ended without a word")
