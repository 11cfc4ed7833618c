"""A command that serves waits for a signal."""

import signal
import threading

import pytest

from blobstore.cli.interruption import wait_for_signal


def test_a_signal_that_does_not_wake_the_waiting_thread_ends_the_wait_too() -> None:
    def interrupt() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.1, interrupt)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            wait_for_signal()
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
