"""`unmap`: give a part of a blob back."""

import click

from blobstore import Blob
from blobstore.cli.blob_lookup import open_to_change
from blobstore.cli.options import (
    StoreOptions,
    blob_argument,
    length_option,
    offset_option,
    store_command,
)
from blobstore.cli.output import print_result
from blobstore.cli.rendering import is_clone


@store_command("unmap", changes=True, reads_content=True)
@blob_argument
@offset_option
@length_option
def command(options: StoreOptions, *, which: str, offset: int, length: int) -> None:
    """Deallocate a range of a blob: what was written there is dropped.

    A blob without a parent then reads zeroes there, and a thin one frees whole
    clusters. A clone keeps its own clusters, and fills them with zeroes. Where a clone
    has no cluster of its own, it still reads its parent: use `zero` there.
    """
    with options.open(read_only=False) as store, open_to_change(store, which) as blob:
        blob.unmap(offset, length)
        blob.flush()
        inherited = _inherited_bytes(blob, offset, length)
    if inherited and not options.as_json:
        what = f"blob {blob.id:#x}: {inherited} of {length} bytes still read its parent"
        click.echo(f"{what}; `zero` makes them zeroes", err=True)
    fields = {"id": blob.id, "offset": offset, "length": length}
    if inherited:
        fields["inherited"] = inherited
    print_result(fields, "", as_json=options.as_json)


def _inherited_bytes(blob: Blob, offset: int, length: int) -> int:
    """Return how many bytes of a range a clone reads from its parent."""
    if not is_clone(blob.info):
        return 0
    end = offset + length
    inherited = 0
    hole = blob.next_unallocated(offset)
    while hole is not None and hole < end:
        after = blob.next_allocated(hole)
        inherited += min(end, after or end) - hole
        hole = None if after is None else blob.next_unallocated(after)
    return inherited
