"""What commands take: sizes, blob ids, attributes, and the options of all that open a store."""

import functools
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import click

from blobstore.cli.values import parse_bytes
from blobstore.errors import BusyError, CorruptError, InvalidArgumentError
from blobstore.units import parse_size

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from blobstore.cli.store_kinds import AnyStore
    from blobstore.device.base import Device

T = TypeVar("T")

CommandFunction: TypeAlias = Callable[..., int | None]


def size(text: str) -> int:
    """Parse SIZE; the name is what help shows."""
    try:
        return parse_size(text)
    except InvalidArgumentError as error:
        raise click.BadParameter(error.message) from error


def seconds(text: str) -> float:
    """Parse SECONDS; the name is what help shows."""
    with suppress(ValueError):
        if (found := float(text)) >= 0:
            return found
    raise click.BadParameter(f"{text!r}: expected a number of seconds, 0 or more")


def blob(text: str) -> str:
    """Take BLOB as it is, to be looked up in the open store; the name is what help shows."""
    if not text:
        raise click.BadParameter("expected an id, a name or a uuid")
    return text


def external(text: str) -> tuple[bytes, str]:
    """Parse ID=PATH; the name is what help shows."""
    name, equals, path = text.partition("=")
    if not (equals and name and path):
        raise click.BadParameter(f"{text!r}: expected ID=PATH")
    return external_id(name), path


def external_id(text: str) -> bytes:
    """Parse the ID of an external snapshot, text or hex:...; the name is what help shows."""
    try:
        return parse_bytes(text)
    except InvalidArgumentError as error:
        raise click.BadParameter(error.message) from error


def complete_blob(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """Complete BLOB; a command that is run does not import what that needs."""
    from blobstore.cli.completing import complete_blob

    return complete_blob(ctx, param, incomplete)


class PathType(click.Path):
    """A path of a file or directory, as it is typed.

    `click.Path` looks at the path, and calls what is missing or unreadable a wrong usage. Here
    opening it fails, so that the same mistake has the same status and message everywhere.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text, or a `pathlib.Path`."""
        return self.coerce_path_result(value)


class InputType(PathType):
    """A file to read, or ``-``; a shell's standard input is its own."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text."""
        if value == "-" and ctx is not None and ctx.find_object(StoreOptions) is not None:
            self.fail("standard input is the shell's: name a FILE", param, ctx)
        return super().convert(value, param, ctx)


blob_argument: Final = click.argument(
    "which", metavar="BLOB", type=blob, shell_complete=complete_blob
)
name_argument: Final = click.argument("name", required=False)
offset_option: Final = click.option("--offset", type=size, default="0", show_default=True)
length_option: Final = click.option("--length", type=size, required=True)
external_snapshot_option: Final = click.option(
    "--external-snapshot",
    "external_parent",
    metavar="ID",
    type=external_id,
    help="The external snapshot that unwritten clusters are read from: text, or hex:...",
)
json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
yes_option: Final = click.option("--yes", is_flag=True, help="Answer yes to every question.")
thin_option: Final = click.option(
    "--thin", is_flag=True, help="Allocate each cluster at its first write, not now."
)

_TOO_SHORT: Final = "no blobstore: "  # a file that cannot hold a super block


class UnopenedError(CorruptError):
    """A store that does not open: where it is, `why`, and what to do next."""

    def __init__(self, address: str, why: CorruptError) -> None:
        message = f"{why.strerror}; `blobstore check` says more"
        if not why.strerror.startswith(_TOO_SHORT):
            message = f"{message}; what can be read of it: blobstore rescue {shlex.quote(address)}"
        super().__init__(message, errno=why.errno)
        self.at(store=address)
        self.why = why


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """The store a command works on, how to open it, and how to print the result.

    `kept_open` is the store that a shell has open, which all its commands share.
    """

    address: str
    force: bool
    atomic_write: int | None
    direct: bool
    externals: tuple[tuple[bytes, str], ...]
    as_json: bool
    wait: float = 0.0
    kept_open: "AnyStore | None" = None

    @property
    def source(self) -> "str | Device":
        """What the store is on, for what looks at it from below: of a kept one its device."""
        if self.kept_open is None:
            return self.address
        from blobstore.api.store_handle import device_below

        return device_below(self.kept_open)

    def when_free(self, attempt: Callable[[], T]) -> T:
        """Call what opens the store, again until it is free or `wait` seconds are over.

        Raises:
            BusyError: It is in use.
        """
        from blobstore.api.waiting import while_busy

        try:
            return while_busy(attempt, wait=self.wait)
        except BusyError as error:
            is_ours = error.strerror.endswith("this process")  # STORE is also another argument
            if self.wait:
                error.add_note(f"waited {self.wait:g} s")
            elif not is_ours:
                error.add_note("--wait SECONDS waits until it has ended")
            raise

    def open(self, *, read_only: bool) -> "AbstractContextManager[AnyStore]":
        """Open the store, of either kind, until the `with` ends; read-only no byte changes.

        Raises:
            BlobstoreError: As `open_as_it_is` and `Blobstore.register_external`.
        """
        from blobstore.api.volumes import open_as_it_is

        if self.kept_open is not None:
            return nullcontext(self.kept_open)
        try:
            store = self.when_free(
                lambda: open_as_it_is(
                    self.address,
                    read_only=read_only,
                    force=self.force,
                    atomic_write_size=self.atomic_write,
                    direct=self.direct,
                )
            )
        except CorruptError as error:
            raise UnopenedError(self.address, error) from error
        try:
            self.register_externals(store)
        except BaseException:
            store.close()
            raise
        return store

    def register_externals(self, store: "AnyStore") -> None:
        """Say what the external snapshots are.

        Raises:
            BlobstoreError: As `Blobstore.register_external`.
        """
        from blobstore.cli.store_kinds import register_external

        for identity, path in self.externals:
            register_external(store, identity, path)

    def open_device(self, *, read_only: bool) -> "Device":
        """Open what the store is on, without looking into it.

        Raises:
            BlobstoreError: As `blobstore.device.address.open_device`.
        """
        from blobstore.device.address import open_device

        return self.when_free(
            lambda: open_device(
                self.address,
                read_only=read_only,
                atomic_write_size=self.atomic_write,
                direct=self.direct,
            )
        )


_OPENING: Final = ("store", "force", "atomic_write", "direct", "wait", "externals")
"""The parameters that say which store, and how to open it."""


COMMON: Final = frozenset(
    ("--external", "--direct", "--atomic-write", "--force", "--wait", "--json", "--help")
)
"""The options that are listed after a command's own."""


class StoreCommand(click.Command):
    """A command whose first argument is a store."""

    def in_shell(self) -> click.Command:
        """Return the same without the store, which is the shell's."""
        params = [param for param in self.params if param.name not in _OPENING]
        return click.Command(self.name, callback=self.callback, params=params, help=self.help)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then those that all commands have."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], "Common options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if isinstance(param, click.Option) and record is not None:
                is_common = not COMMON.isdisjoint(param.opts)
                sections["Common options" if is_common else "Options"].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def store_command(
    name: str,
    *,
    changes: bool = False,
    opens: bool = True,
    reads_content: bool = False,
    cls: type[StoreCommand] = StoreCommand,
) -> Callable[[CommandFunction], click.Command]:
    """Make a command of a function whose first argument is `StoreOptions`.

    Every command accepts all common options, so that a script can give the same
    to each. Help shows those that mean something: `changes` tells that it
    writes to the store, `opens` that it opens it as one, `reads_content` that
    it can need what an external snapshot holds.
    """
    shown = {
        "externals": reads_content,
        "direct": True,
        "atomic_write": changes,
        "force": changes and opens,
    }

    def decorate(function: CommandFunction) -> click.Command:
        asks = any(param.name == "yes" for param in getattr(function, "__click_params__", ()))

        @functools.wraps(function)
        def invoke(**given: Any) -> int | None:
            if changes and not asks:
                del given["yes"]
            return function(_take_options(given), **given)

        command = _with_store_options(invoke, shown)
        if changes and not asks:
            command = click.option("--yes", is_flag=True, hidden=True)(command)
        return click.command(name, cls=cls)(click.argument("store", type=PathType())(command))

    return decorate


def _take_options(given: dict[str, Any]) -> StoreOptions:
    """Take what belongs to the store from what a command was given; a shell has it already."""
    as_json = given.pop("as_json")
    shell = click.get_current_context().find_object(StoreOptions)
    if shell is not None:
        return replace(shell, as_json=shell.as_json or as_json)
    store, force, atomic_write, direct, wait, externals = (given.pop(name) for name in _OPENING)
    atomic = None if atomic_write is None else int(atomic_write)
    return StoreOptions(store, force, atomic, direct, externals, as_json, wait)


def _with_store_options(function: CommandFunction, shown: dict[str, bool]) -> CommandFunction:
    externals = click.option(
        "--external",
        "externals",
        metavar="ID=PATH",
        type=external,
        multiple=True,
        hidden=not shown["externals"],
        help="Read the external snapshot ID from PATH; ID is text, or hex:...",
    )
    direct = click.option("--direct", is_flag=True, help="Direct I/O, past the page cache.")
    atomic_write = click.option(
        "--atomic-write",
        type=click.Choice(["512", "4096"]),
        hidden=not shown["atomic_write"],
        help="The largest aligned write in bytes that a power cut leaves whole on this device.",
    )
    force = click.option(
        "--force",
        is_flag=True,
        hidden=not shown["force"],
        help="Open for writing although a blob is in quarantine.",
    )
    wait = click.option(
        "--wait",
        type=seconds,
        default="0",
        help="Wait this long for a store that is in use, instead of failing at once.",
    )
    return externals(direct(atomic_write(force(wait(json_option(function))))))
