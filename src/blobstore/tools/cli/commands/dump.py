"""`dump`: the metadata as text."""

import sys

from blobstore import dump
from blobstore.tools.cli.options import StoreOptions, store_command
from blobstore.tools.cli.output import print_json, unicode_text


@store_command("dump")
def command(options: StoreOptions) -> None:
    """Print a store's metadata as SPDK's dump does, whatever state it is in.

    Text inside the store is printed as it is, bytes that are no text included.
    """
    text = _dump(options)
    if options.as_json:
        print_json({"dump": unicode_text(text.decode("utf-8", "surrogateescape"))})
    else:
        sys.stdout.buffer.write(text)


def _dump(options: StoreOptions) -> bytes:
    if options.kept_open is not None:
        return options.kept_open.dump()
    return dump(options.open_device(read_only=True))
