"""`shell`: commands on one open store, typed or from a script."""

import sys
from dataclasses import replace

import click

from blobstore.cli.options import StoreOptions, store_command


@store_command("shell", changes=True, reads_content=True)
@click.option("--read-only", is_flag=True, help="Open the store read-only.")
@click.option("--keep-going", is_flag=True, help="A line that fails does not end a script.")
def command(options: StoreOptions, *, read_only: bool, keep_going: bool) -> int:
    """Run commands without STORE, one per line, on one store that stays open.

    On a terminal the shell has a history, TAB completes, and a line that fails does
    not end the shell. Otherwise standard input is a script, which ends at the
    first line that fails. Lines are split as a shell does; # begins a comment.
    """
    from blobstore.cli.shell.line_runner import LineRunner, run_script

    with options.open(read_only=read_only) as store:
        runner = LineRunner(replace(options, kept_open=store))
        if sys.stdin.isatty() and sys.stdout.isatty():
            from blobstore.cli.shell.terminal import run_on_terminal

            return run_on_terminal(runner)
        return run_script(runner, sys.stdin.buffer, keep_going=keep_going)
