"""`dump`: the metadata as text."""

import sys
from collections.abc import Iterator

from blobstore import iter_dump
from blobstore.cli.options import StoreOptions, store_command
from blobstore.cli.output import print_json, unicode_text


@store_command("dump")
def command(options: StoreOptions) -> None:
    """Print a store's metadata as SPDK's dump does, whatever state it is in.

    Text in the store is printed as it is, also bytes that are not valid text.
    """
    if options.as_json:
        text = b"".join(_dump(options))
        print_json({"dump": unicode_text(text.decode("utf-8", "surrogateescape"))})
    else:
        sys.stdout.buffer.writelines(_dump(options))


def _dump(options: StoreOptions) -> Iterator[bytes]:
    if options.kept_open is not None:
        yield from options.kept_open.iter_dump()
    else:
        with options.open_device(read_only=True) as device:
            yield from iter_dump(device)
