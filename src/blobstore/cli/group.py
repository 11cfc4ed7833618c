"""The commands by name, and what becomes of their errors.

A command's module is imported when it is run, so that none waits for another's imports.
"""

import errno
import gc
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Final

import click

from blobstore import __version__
from blobstore.cli.interruption import BROKEN_PIPE, message_of, status_of, with_notes
from blobstore.cli.output import print_error
from blobstore.errors import BlobstoreError

COMMANDS: Final = {
    "init": "Make a store.",
    "info": "Describe a store.",
    "list": "List a store's blobs.",
    "show": "Describe one blob in full.",
    "create": "Create a blob.",
    "delete": "Delete a blob.",
    "resize": "Give a blob another size.",
    "rename": "Give a blob another name.",
    "rename-store": "Give a volume store another name.",
    "reid": "Give a copied volume store uuids of its own.",
    "set-read-only": "Make a blob read-only for good.",
    "write": "Write to a blob from a file or standard input.",
    "read": "Read from a blob to standard output.",
    "zero": "Make a range of a blob read as zeroes.",
    "unmap": "Deallocate a range of a blob.",
    "import": "Copy a file into a blob, keeping its holes.",
    "export": "Copy a blob into a file, leaving holes for zeroes.",
    "xattr": "List, get, set and remove a blob's attributes.",
    "super": "Get, set or clear the application's entry blob.",
    "snapshot": "Keep the present content of a blob as a read-only blob.",
    "clone": "Make a writable blob that begins as a snapshot.",
    "inflate": "Give a blob every cluster of its own.",
    "decouple": "Copy what a blob reads from its parent.",
    "set-parent": "Make a blob a clone of another snapshot.",
    "rollback": "Let a blob read as one of its snapshots again.",
    "diff": "List where two blobs of a store differ.",
    "du": "Show what each blob uses, shares and would free.",
    "send": "Write a snapshot, or what differs between two, as a stream.",
    "receive": "Make the snapshot that a stream holds.",
    "copy": "Copy blobs with their snapshots and clones into another store.",
    "prune": "Delete the snapshots of a blob that no rule keeps.",
    "shallow-copy": "Copy a read-only blob's own clusters to a device.",
    "map": "Draw which blob owns which cluster.",
    "dump": "Print the metadata as text.",
    "check": "Look for what is wrong with a store, and repair it.",
    "repair": "Make the repairs of a store that can be proved.",
    "undo": "Restore what a repair replaced.",
    "rescue": "List what can still be read of a damaged store.",
    "recover": "Recover a store after a crash, and leave it clean.",
    "grow": "Use all of a device that has grown.",
    "destroy": "Remove a store and all its blobs from a device.",
    "shell": "Run commands on one open store, typed or from a script.",
    "mount": "Show the blobs of a store as files in a directory.",
    "attach": "Make a blob a block device.",
    "detach": "End a block device.",
    "serve": "Serve volumes and blobs by NBD, to virtual machines and others.",
    "top": "Show who reads and writes how much over NBD.",
    "rpc": "Serve volume stores by SPDK's JSON-RPC.",
    "completion": "Print the completion script for bash, zsh or fish.",
    "bench": "Measure how fast a store is on this device.",
    "demo": "Show that a killed process loses nothing acknowledged.",
}
"""Every command and its help in one line, in the order in which they are listed."""

PROGRAM: Final = "blobstore"
COMPLETION_VARIABLE: Final = "_BLOBSTORE_COMPLETE"
"""Set by what a shell has read from `completion`, and by click's own name for it."""

_MODULE_NAMES: Final = {"import": "import_"}  # a keyword cannot be imported by name


def module_of(name: str) -> str:
    """Return the name of the module that has a command."""
    return _MODULE_NAMES.get(name, name.replace("-", "_"))


def import_command(arguments: Sequence[str]) -> None:
    """Import the module of the command that the arguments name, as long as a signal may end all."""
    if arguments and arguments[0] in COMMANDS:
        import_module(f"blobstore.cli.commands.{module_of(arguments[0])}")


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = module_of(cmd_name)
        command: click.Command = import_module(f"blobstore.cli.commands.{module}").command
        if not gc.isenabled():
            gc.freeze()  # what is imported now stays
            gc.enable()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; of an unknown one, say which name is like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            like = similar(args[0], COMMANDS)
            if not like:
                raise
            raise click.UsageError(f"{error.message} {like}", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def similar(word: str, commands: Iterable[str]) -> str:
    """Ask whether a command was meant that is like the word; empty if none is."""
    from difflib import get_close_matches

    found = get_close_matches(word.lower(), list(commands), n=1)
    return f"Did you mean {found[0]!r}?" if found else ""


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="blobstore %(version)s")
def group() -> None:
    """Make, fill and look into stores: SPDK's Blobstore in a file or device.

    STORE is the path of an image or a block device. BLOB is an id (decimal or
    0x...) or a name. If a number can be an id and a name, it is the id. Two blobs
    with the same name are found only by their ids. In a volume store BLOB may also
    be a uuid. SIZE is a number of bytes, or a number such as 1.5 with a unit: K, M,
    G, T or KiB, MiB, GiB, TiB (powers of 1024), KB, MB, GB, TB (powers of 1000).

    `blobstore help COMMAND` describes a command.
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command; return 0 done, 1 failed, 2 usage; the guide lists all statuses."""
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    instruction = os.environ.get(COMPLETION_VARIABLE)
    if instruction:
        from click.shell_completion import add_completion_class, shell_complete

        from blobstore.cli.bash_completion import BashComplete

        add_completion_class(BashComplete)
        return shell_complete(group, {}, PROGRAM, COMPLETION_VARIABLE, instruction)
    return execute(
        group, arguments, prog_name=PROGRAM, as_json=wants_json(arguments), show_usage=True
    )


def execute(
    command: click.Command,
    arguments: Sequence[str],
    *,
    prog_name: str,
    as_json: bool,
    obj: object = None,
    place: str = "",
    show_usage: bool = False,
) -> int:
    """Run a command and report what fails, as `run`; a message begins with `place`."""
    try:
        with command.make_context(prog_name, list(arguments), obj=obj) as context:
            status = command.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        if show_usage and not as_json:
            error.show()
        else:
            print_error(place + error.format_message(), errno.EINVAL, as_json=as_json)
        return error.exit_code
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except (click.Abort, KeyboardInterrupt, BlobstoreError, OSError) as error:
        return report(error, as_json=as_json, place=place)
    return status if isinstance(status, int) else 0


def report(error: BaseException, *, as_json: bool, place: str = "") -> int:
    """Print what ended a command, and what is left; return the exit status."""
    interrupt = error.__context__ if isinstance(error, click.Abort) else error
    if isinstance(interrupt, KeyboardInterrupt):  # one that met a question is an Abort
        message, number, status = message_of(interrupt), errno.EINTR, status_of(interrupt)
    elif isinstance(error, BlobstoreError):
        message, number, status = error.message, error.errno, 1
    elif isinstance(error, OSError):
        message, number = describe_os_error(error)
        status = 1
    else:
        message, number, status = "aborted: nothing more was done", errno.ECANCELED, 1
    print_error(place + with_notes(message, error), number, as_json=as_json)
    return status


def _silence_stdout() -> None:
    """Let what is still buffered go nowhere: the reader has left."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def wants_json(arguments: Sequence[str]) -> bool:
    """Look for the option without a parser: a usage error is reported as asked for, too."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return "--json" in arguments[:end]


def describe_os_error(error: OSError) -> tuple[str, int]:
    """Return the system's own error as a message and an errno."""
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}", error.errno or errno.EIO
