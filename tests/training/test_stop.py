"""What a signal asks of a run that notes it."""

import os
import signal

import jax
import pytest

from training.stop import Stop


@pytest.fixture
def send():
    return lambda number: os.kill(os.getpid(), number)


def test_each_signal_is_noted_once(send):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        before = signal.getsignal(number)
        with Stop() as stop:
            assert not stop.asked()
            send(number)
            assert stop.asked() and stop.number == number and not stop.save_asked()
        assert signal.getsignal(number) == before
    with Stop() as stop:
        send(signal.SIGUSR1)
        assert [stop.save_asked(), stop.save_asked(), stop.asked()] == [True, False, False]


def test_under_nohup_the_terminal_may_close(send):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            send(signal.SIGHUP)
            assert not stop.asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_to_save_is_passed_over_in_a_job(send, monkeypatch):
    """One process of several cannot save by itself."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with Stop() as stop:
        send(signal.SIGUSR1)
        assert not stop.save_asked()
