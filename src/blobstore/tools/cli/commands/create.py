"""`create`: make a blob."""

import click

from blobstore import ClearMethod, InvalidArgumentError
from blobstore.tools.cli.options import (
    StoreOptions,
    parse_value,
    size,
    store_command,
    thin_option,
)
from blobstore.tools.cli.output import print_result


@store_command("create")
@click.argument("name", required=False)
@click.option("--size", "size_bytes", type=size, required=True, help="Rounded up to clusters.")
@thin_option
@click.option("--extents", type=click.Choice(["table", "runs"]), default="table", show_default=True)
@click.option(
    "--clear",
    type=click.Choice([method.name.lower() for method in ClearMethod]),
    default="default",
    help="What happens to clusters that it gives up.",
)
@click.option(
    "--xattr",
    "assignments",
    metavar="NAME=VALUE",
    multiple=True,
    help="An attribute; VALUE is text, hex:... or @FILE.",
)
def command(
    options: StoreOptions,
    *,
    name: str | None,
    size_bytes: int,
    thin: bool,
    extents: str,
    clear: str,
    assignments: tuple[str, ...],
) -> None:
    """Create a blob, and print its id. NAME is kept as the attribute `name`."""
    xattrs = _xattrs_of(name, assignments)
    with (
        options.open(read_only=False) as store,
        store.create_blob(
            size_bytes,
            thin=thin,
            extent_table=extents == "table",
            clear_method=ClearMethod[clear.upper()],
            xattrs=xattrs,
        ) as blob,
    ):
        blob_id = blob.id
    print_result({"id": blob_id}, f"{blob_id:#x}", as_json=options.as_json)


def _xattrs_of(name: str | None, assignments: tuple[str, ...]) -> dict[str, bytes]:
    pairs = [("name", name)] if name is not None else []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InvalidArgumentError(f"xattr {assignment!r}: expected NAME=VALUE")
        pairs.append((key, text))
    xattrs = {key: parse_value(text) for key, text in pairs}
    if len(xattrs) != len(pairs):
        raise InvalidArgumentError("xattrs: a name is given twice")
    return xattrs
