"""What commands take: sizes, blob ids, attributes, and the options of all that open a store."""

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click

from blobstore.errors import BlobstoreError, InvalidArgumentError, ReadOnlyError
from blobstore.units import parse_size

if TYPE_CHECKING:
    from blobstore import Blobstore

CommandFunction: TypeAlias = Callable[..., int | None]

_ID_END: Final = 1 << 64
_VALUE_MAX: Final = 1 << 16  # more than any metadata page can hold


def size(text: str) -> int:
    """Parse SIZE; the name is what help shows."""
    try:
        return parse_size(text)
    except InvalidArgumentError as error:
        raise click.BadParameter(error.message) from error


def blob_id(text: str) -> int:
    """Parse BLOB; the name is what help shows."""
    try:
        number = int(text, 16 if text[:2] in ("0x", "0X") else 10)
    except ValueError:
        number = -1
    if not 0 <= number < _ID_END:
        raise click.BadParameter(f"blob id {text!r}: expected a number, decimal or 0x...")
    return number


blob_argument: Final = click.argument("blob_id", metavar="BLOB", type=blob_id)
json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
yes_option: Final = click.option("--yes", is_flag=True, help="Do not ask.")
thin_option: Final = click.option(
    "--thin", is_flag=True, help="Take clusters when they are first written."
)


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """The store a command works on, how to open it, and how to print the result."""

    address: str
    force: bool
    atomic_write: int | None
    as_json: bool

    def open(self, *, read_only: bool) -> "Blobstore":
        """Open the store; read-only no byte of it changes.

        Raises:
            As `Blobstore.open`.
        """
        from blobstore import Blobstore

        return Blobstore.open(
            self.address,
            read_only=read_only,
            force=self.force,
            atomic_write_size=self.atomic_write,
        )


def store_command(name: str) -> Callable[[CommandFunction], click.Command]:
    """Make a command of a function whose first argument is `StoreOptions`."""

    def decorate(function: CommandFunction) -> click.Command:
        @functools.wraps(function)
        def invoke(
            store: str, force: bool, atomic_write: str | None, as_json: bool, **rest: Any
        ) -> int | None:
            atomic = None if atomic_write is None else int(atomic_write)
            return function(StoreOptions(store, force, atomic, as_json), **rest)

        return click.command(name)(click.argument("store")(_with_store_options(invoke)))

    return decorate


def _with_store_options(function: CommandFunction) -> CommandFunction:
    atomic_write = click.option(
        "--atomic-write",
        type=click.Choice(["512", "4096"]),
        help="The largest aligned write in bytes that a power cut leaves whole on this device.",
    )
    force = click.option(
        "--force", is_flag=True, help="Open writable although a blob is quarantined."
    )
    return atomic_write(force(json_option(function)))


def parse_value(text: str) -> bytes:
    """Turn text, ``hex:...`` or ``@FILE`` into an attribute's value.

    Raises:
        InvalidArgumentError: Bad hex digits, or a file that no attribute can hold.
    """
    if text.startswith("@"):
        return _read_value(text[1:])
    if not text.startswith("hex:"):
        return os.fsencode(text)
    try:
        return bytes.fromhex(text[4:])
    except ValueError as error:
        raise InvalidArgumentError(f"value {text!r}: expected pairs of hex digits") from error


def _read_value(path: str) -> bytes:
    with open(path, "rb") as file:
        value = file.read(_VALUE_MAX + 1)
    if len(value) > _VALUE_MAX:
        raise InvalidArgumentError(f"{path}: more than {_VALUE_MAX} bytes, too many for an xattr")
    return value


def is_interactive() -> bool:
    """Say whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(what: str, *, yes: bool, refusal: BlobstoreError | None = None) -> None:
    """Ask before something is destroyed; `what` is what would happen, such as "delete it".

    Raises:
        BlobstoreError: Nobody can be asked, and `yes` was not given (`refusal`, or EPERM).
        click.Abort: The answer was no.
    """
    if yes:
        return
    if not is_interactive():
        raise refusal or ReadOnlyError(f"{what}: refused, not on a terminal and no --yes")
    click.confirm(f"{what}?", abort=True, err=True)
