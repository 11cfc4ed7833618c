"""The shell on a terminal: a prompt, a history that is kept, and completion by TAB."""

import glob
import io
import os
import readline
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem, ShellComplete

from blobstore.cli.interruption import TERMINATED, status_of
from blobstore.cli.options import StoreOptions
from blobstore.cli.output import printable
from blobstore.cli.shell.command_set import shell_group
from blobstore.cli.shell.line_runner import LineRunner

_HISTORY_MAX: Final = 1000
_WORD_ENDS: Final = " \t\n"
_REPEATED_AFTER_S: Final = (0.02, 0.2, 1, 4)


def run_on_terminal(runner: LineRunner) -> int:
    """Run what is typed until its end; what fails is reported and ends nothing."""
    store = runner.options.kept_open
    assert store is not None
    prompt = f"{printable(os.path.basename(runner.options.address))}> "
    assert isinstance(sys.stdin, io.TextIOWrapper)
    sys.stdin.reconfigure(errors="surrogateescape")
    with _history(), _completion(Completer(runner.options, prompt)), _signals_reach_the_prompt():
        while not runner.ended:
            try:
                line = input(prompt)
            except EOFError:
                click.echo()
                break
            except KeyboardInterrupt as interrupt:
                click.echo()
                if status_of(interrupt) in TERMINATED:
                    raise
                continue
            if line.strip():
                readline.add_history(line)
            status = runner.run_line(line)
            if status in TERMINATED:
                return status
            if store.closed:  # destroyed
                break
    return 0


def history_file() -> Path:
    """Return where the history is kept: below `$XDG_STATE_HOME`."""
    state = os.environ.get("XDG_STATE_HOME", "")
    root = Path(state) if os.path.isabs(state) else Path(os.path.expanduser("~/.local/state"))
    return root / "blobstore" / "history"


@contextmanager
def _signals_reach_the_prompt() -> Iterator[None]:
    """Interrupt readline's wait for a key when a signal came just before the wait began.

    Python runs its handlers when a system call is interrupted, and readline's wait is one. A signal
    between the prompt and the wait interrupts nothing, and would be handled with the next key.
    So a thread hears of each signal by a pipe, and sends the main thread a second one. This is
    SIGWINCH, for which readline has a handler that does no harm.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    ending = threading.Event()
    thread = threading.Thread(target=_repeat_signals, args=(heard, ending), daemon=True)
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        ending.set()
        os.close(told)
        thread.join()
        os.close(heard)


def _repeat_signals(heard: int, ending: threading.Event) -> None:
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    while os.read(heard, 1):
        for pause in _REPEATED_AFTER_S:
            if ending.wait(pause):
                return
            signal.pthread_kill(main_thread, signal.SIGWINCH)


@contextmanager
def _history() -> Iterator[None]:
    """Have the lines of former sessions, and keep this one's; a host that refuses is no error."""
    path = history_file()
    readline.clear_history()
    readline.set_auto_history(False)  # answers to questions are no commands
    readline.set_history_length(_HISTORY_MAX)
    with suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            readline.write_history_file(path)


@contextmanager
def _completion(completer: "Completer") -> Iterator[None]:
    readline.set_completer(completer.complete)
    readline.set_completer_delims(_WORD_ENDS)
    readline.set_completion_display_matches_hook(completer.show)
    is_libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
    readline.parse_and_bind("set show-all-if-ambiguous on")  # ids begin alike
    try:
        yield
    finally:
        readline.set_completer(None)
        readline.set_completion_display_matches_hook(None)


class Completer:
    """Says what can follow, and shows it with what it means."""

    def __init__(self, options: StoreOptions, prompt: str) -> None:
        self._options = options
        self._prompt = prompt
        self._line = ""
        self._cursor = 0
        self._found: list[str] = []
        self._meanings: dict[str, str] = {}

    def complete(self, text: str, state: int) -> str | None:
        """Return one candidate after the other, as readline asks for them."""
        if state == 0:
            self._line, self._cursor = readline.get_line_buffer(), readline.get_endidx()
            items = self._items(self._line[: readline.get_begidx()], text)
            self._meanings = {item.value: item.help or "" for item in items}
            self._found = [candidate for item in items for candidate in _candidates(item)]
        return self._found[state] if state < len(self._found) else None

    def _items(self, before: str, text: str) -> "Sequence[CompletionItem]":
        try:
            words = shlex.split(before)
        except ValueError:  # within quotes
            return []
        complete = ShellComplete(shell_group, {"obj": self._options}, "", "")
        return complete.get_completions(words, text)

    def show(self, _text: str, matches: Sequence[str], _longest: int) -> None:
        """List candidates with their meanings, and draw the line again as it was before.

        Readline adds what it has completed itself, and counts on the rest.
        """
        width = max(map(len, matches))
        lines = [
            f"{match:{width}} {self._meanings.get(match.strip(), '')}".rstrip() for match in matches
        ]
        click.echo("\n" + "\n".join(lines))
        back = "\b" * (len(self._line) - self._cursor)
        click.echo(self._prompt + self._line + back, nl=False)


def _candidates(item: "CompletionItem") -> list[str]:
    if item.type == "plain":
        return [f"{item.value} "]
    start = os.path.expanduser(glob.escape(item.value))
    return [f"{path}/" if os.path.isdir(path) else f"{path} " for path in glob.glob(f"{start}*")]
