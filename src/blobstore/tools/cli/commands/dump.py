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
    text = dump(options.address)
    if options.as_json:
        print_json({"dump": unicode_text(text.decode("utf-8", "surrogateescape"))})
    else:
        sys.stdout.buffer.write(text)
