"""The process that gets killed: it writes a file into a thin blob, and says what is durable.

Standard output: the blob's id in the first line, then after every flush how
many bytes of the file it covers. Standard input never gets anything; the
process holds its store open and dirty until it is killed, or orphaned.
"""

import sys
from typing import Final

from blobstore import Blob, Blobstore
from blobstore.units import MIB

_WRITE_SIZE: Final = MIB


def main(image: str, source: str, flush_every: int) -> None:
    """Write `source` to a new blob of the store `image`."""
    with open(source, "rb") as file, Blobstore.open(image) as store:
        length = file.seek(0, 2)
        file.seek(0)
        blob = store.create_blob(length, thin=True, xattrs={"name": b"killed"})
        _say(blob.id)
        written = 0
        while data := file.read(flush_every):
            _write(blob, data, written)
            blob.flush()
            written += len(data)
            _say(written)  # never before the flush has returned
        sys.stdin.read()


def _write(blob: Blob, data: bytes, offset: int) -> None:
    for start in range(0, len(data), _WRITE_SIZE):
        blob.write(data[start : start + _WRITE_SIZE], offset + start)


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
