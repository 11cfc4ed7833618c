"""The commands by name, and what becomes of their errors.

A command's module is imported when it is run, so that none waits for another's imports.
"""

import errno
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import click

from blobstore import __version__
from blobstore.errors import BlobstoreError
from blobstore.tools.cli.output import print_error

COMMANDS: Final = {
    "init": "Make a store.",
    "info": "Describe a store.",
    "list": "List a store's blobs.",
    "show": "Describe one blob in full.",
    "create": "Create a blob.",
    "delete": "Delete a blob.",
    "resize": "Give a blob another size.",
    "write": "Write to a blob from a file or standard input.",
    "read": "Read from a blob to standard output.",
    "import": "Copy a file into a blob, keeping its holes.",
    "export": "Copy a blob into a file, leaving holes for zeroes.",
    "xattr": "List, get, set and remove a blob's attributes.",
    "dump": "Print the metadata as text.",
    "recover": "Leave a store clean after a dirty stop.",
    "demo": "Kill a writing process, and show that nothing acknowledged is lost.",
}
"""Every command and its help in one line, in the order in which they are listed."""

_MODULE_NAMES: Final = {"import": "import_"}  # a keyword cannot be imported by name


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = _MODULE_NAMES.get(cmd_name, cmd_name)
        command: click.Command = import_module(f"blobstore.tools.cli.commands.{module}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="blobstore %(version)s")
def group() -> None:
    """Make, fill and look into stores: SPDK's Blobstore in a file or device.

    STORE is the path of an image or a block device. BLOB is an id, decimal or 0x...
    SIZE is bytes, or a number with K, M, G, T, KiB, MiB, GiB or TiB, powers of 1024.
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command; return 0 done, 1 failed, 2 usage."""
    as_json = _wants_json(arguments)
    try:
        status = group.main(list(arguments), prog_name="blobstore", standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        print_error("aborted: nothing more was done", errno.ECANCELED, as_json=as_json)
        return 1
    except click.ClickException as error:
        return _report_usage(error, as_json=as_json)
    except BlobstoreError as error:
        print_error(error.message, error.errno, as_json=as_json)
        return 1
    except OSError as error:
        print_error(_describe_os_error(error), error.errno or errno.EIO, as_json=as_json)
        return 1
    return status if isinstance(status, int) else 0


def _wants_json(arguments: Sequence[str]) -> bool:
    """Look for the option without a parser: a usage error is reported as asked for, too."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return "--json" in arguments[:end]


def _report_usage(error: click.ClickException, *, as_json: bool) -> int:
    if as_json:
        print_error(error.format_message(), errno.EINVAL, as_json=True)
    else:
        error.show()
    return error.exit_code


def _describe_os_error(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"
