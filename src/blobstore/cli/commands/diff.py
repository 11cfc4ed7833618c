"""`diff`: where two blobs of a store differ."""

import click

from blobstore.cli.blob_lookup import open_blob
from blobstore.cli.options import StoreOptions, blob, complete_blob, store_command
from blobstore.cli.output import print_result, render_table


@store_command("diff")
@click.argument("first", metavar="A", type=blob, shell_complete=complete_blob)
@click.argument("second", metavar="B", type=blob, shell_complete=complete_blob)
def command(options: StoreOptions, *, first: str, second: str) -> None:
    """List the parts in which the blobs A and B differ, in bytes; nothing of the store changes.

    The maps are compared, and no data are read: a part that holds the same bytes in
    another cluster counts as different. What lies beyond the end of one of the two
    reads as zeroes.
    """
    with (
        options.open(read_only=True) as store,
        open_blob(store, first) as old,
        open_blob(store, second) as new,
    ):
        ranges = merged(new.changed_ranges(old))
    text = render_table([("OFFSET", "LENGTH"), *((str(at), str(n)) for at, n in ranges)])
    fields = {"ranges": ranges}
    print_result(fields, text if ranges else "", as_json=options.as_json)


def merged(parts: list[tuple[int, int, bool]]) -> list[list[int]]:
    """Return (offset, length) of the parts, neighbours as one."""
    ranges: list[list[int]] = []
    for offset, length, _has_data in parts:
        if ranges and sum(ranges[-1]) == offset:
            ranges[-1][1] += length
        else:
            ranges.append([offset, length])
    return ranges
