"""`xattr`: a blob's attributes."""

import click

from blobstore.cli.blob_lookup import open_blob, warn_of_same_names
from blobstore.cli.options import (
    StoreOptions,
    blob_argument,
    store_command,
)
from blobstore.cli.output import print_result, printable_name, render_table, unicode_text
from blobstore.cli.rendering import render_bytes, xattr_fields
from blobstore.cli.values import parse_value
from blobstore.errors import naming
from blobstore.format.descriptors import decode_name


@click.group("xattr")
def command() -> None:
    """List, get, set and remove a blob's attributes. A VALUE is text, hex:... or @FILE."""


@store_command("list")
@blob_argument
def list_xattrs(options: StoreOptions, *, which: str) -> None:
    """List a blob's attributes in their order on disk; nothing changes."""
    with options.open(read_only=True) as store, open_blob(store, which) as blob:
        xattrs = blob.info.xattrs
    rows = [(printable_name(name), render_bytes(value)) for name, value in xattrs.items()]
    fields = {"id": blob.id, "xattrs": xattr_fields(xattrs)}
    print_result(fields, render_table(rows), as_json=options.as_json)


@store_command("get")
@blob_argument
@click.argument("name")
def get_xattr(options: StoreOptions, *, which: str, name: str) -> None:
    """Write an attribute's bytes to standard output as they are; nothing changes."""
    with options.open(read_only=True) as store, open_blob(store, which) as blob:
        value = blob.get_xattr(name)
    if options.as_json:
        fields = {"id": blob.id, "name": unicode_text(name), "value": value.hex()}
        print_result(fields, "", as_json=True)
    else:
        click.echo(value, nl=False)


@store_command("set", changes=True)
@blob_argument
@click.argument("name")
@click.argument("value")
def set_xattr(options: StoreOptions, *, which: str, name: str, value: str) -> None:
    """Set an attribute; durable when done.

    `rename` refuses a name that another blob has; this only warns of it.
    """
    data = parse_value(value)
    with options.open(read_only=False) as store, open_blob(store, which) as blob:
        with naming(store=options.address):
            blob.set_xattr(name, data)
        if name == "name" and not options.as_json:
            warn_of_same_names(store, decode_name(data.rstrip(b"\0")))
    fields = {"id": blob.id, "name": unicode_text(name), "value": data.hex()}
    print_result(fields, "", as_json=options.as_json)


@store_command("remove", changes=True)
@blob_argument
@click.argument("name")
def remove_xattr(options: StoreOptions, *, which: str, name: str) -> None:
    """Remove an attribute; durable when done."""
    with (
        options.open(read_only=False) as store,
        open_blob(store, which) as blob,
        naming(store=options.address),
    ):
        blob.remove_xattr(name)
    fields = {"id": blob.id, "name": unicode_text(name)}
    print_result(fields, "", as_json=options.as_json)


for _subcommand in (list_xattrs, get_xattr, set_xattr, remove_xattr):
    command.add_command(_subcommand)
