"""An import into a new blob, which can be continued wherever it was interrupted.

The blob carries the attribute `import_state` from its first moment. The attribute says what is
imported, and up to which byte of it everything is durable. The last step is one write of the
blob's root: it removes the attribute and gives the blob its name. So an interruption leaves an
unfinished blob that says what it is, and never a part under the name of the whole.

The attribute names an offset only when all before it is durable: `set_attributes` flushes what was
written, and then writes the root. So a power failure loses at most what came since the last offset.

The same data is written again where an earlier attempt had come further than its offset. That is
right only if the source is the same as it was. So the attribute also holds what would show
a change: the path, the format, the size and the time of the last change of every file that is read.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Self

import msgspec

from blobstore import Blob
from blobstore.backup.any_store import ancestors
from blobstore.backup.unfinished import (
    IMPORT_STATE,
    INCOMPLETE,
    delete_import,
    hidden_name,
    unfinished_blobs,
)
from blobstore.cli import store_kinds
from blobstore.cli.copying import check_space, data_size, fill_new
from blobstore.cli.files import is_block_device, open_to_read, size_of
from blobstore.cli.images.verifying import DifferentContentError
from blobstore.cli.interruption import Left, leaving
from blobstore.cli.progress import progress
from blobstore.drivers import interrupts
from blobstore.errors import InvalidArgumentError, naming
from blobstore.store.describe import BlobInfo
from blobstore.units import BlobId

HOW_TO_GO_ON: Final = (
    "what came is kept: `import --resume` goes on with it, `delete --unfinished` deletes it"
)
_PATH_MAX: Final = 1024
"""An attribute has to fit into a page: of a longer path it holds the hash."""


class ImportState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an unfinished blob is an import of; all before byte `offset` of it is durable."""

    path: str
    source: str
    offset: int = 0


def describe_source(files: Sequence[tuple[str, str]]) -> ImportState:
    """Return what an import of (path, format) says of its source; the last is the one it names.

    Raises:
        OSError: A file is not there.
    """
    digest = hashlib.sha256()
    for path, image_format in files:
        with open_to_read(path) as descriptor:
            # The time of a device's node says nothing about the content of the device.
            is_device = is_block_device(descriptor)
            changed = 0 if is_device else os.fstat(descriptor).st_mtime_ns
            digest.update(f"{image_format} {size_of(descriptor)} {changed}\n".encode())
    path = os.path.realpath(files[-1][0]).encode("utf-8", "backslashreplace").decode()
    if len(path) > _PATH_MAX:
        path = hashlib.sha256(path.encode()).hexdigest()
    return ImportState(path, digest.hexdigest())


class BlobImport:
    """A new blob on its way into a store."""

    def __init__(
        self, store: store_kinds.AnyStore, blob: Blob, state: ImportState, *, is_resumed: bool
    ) -> None:
        self.blob = blob
        self._store = store
        self._state = state
        self._is_resumed = is_resumed
        self._left = Left(HOW_TO_GO_ON if is_resumed else "")

    @classmethod
    def begin(
        cls, store: store_kinds.AnyStore, state: ImportState, size_bytes: int, *, thin: bool
    ) -> Self:
        """Make the blob, without a name; in a volume store it has a hidden name.

        Raises:
            NoSpaceError: As `Blobstore.create_blob`.
        """
        hidden = hidden_name(store, "importing")
        xattrs = {IMPORT_STATE: msgspec.json.encode(state)}
        blob = store_kinds.create_blob(store, hidden, size_bytes, thin=thin, xattrs=xattrs)
        return cls(store, blob, state, is_resumed=False)

    @classmethod
    def go_on(cls, store: store_kinds.AnyStore, wanted: ImportState, *, thin: bool) -> Self | None:
        """Open the blob that an earlier import of the same source left, or return None.

        Raises:
            InvalidArgumentError: The source has changed since, or the blob is not thin as asked.
        """
        found = [(info, state) for info, state in _left(store) if state.path == wanted.path]
        found.sort(key=lambda each: each[1].offset, reverse=True)
        for info, state in found:
            if state.source == wanted.source:
                if info.thin != thin:
                    kinds = ("thin", "thick") if info.thin else ("thick", "thin")
                    text = f"blob {info.blob_id:#x}: unfinished and {kinds[0]}, not {kinds[1]}"
                    raise InvalidArgumentError(text)
                return cls(store, store.open_blob(info.blob_id), state, is_resumed=True)
        if found:
            raise InvalidArgumentError(
                f"{wanted.path}: has changed since its import was interrupted, so blob "
                f"{found[0][0].blob_id:#x} cannot be continued: `delete --unfinished` deletes it"
            )
        return None

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Close the blob when the body has ended; an error says what is left.

        A blob that does not hold what its source holds is deleted.
        """
        with leaving(self._left):
            try:
                with self.blob:
                    yield
            except DifferentContentError:
                self._left.what = ""
                delete_import(self._store, self.blob.id)
                raise

    def fill(self, source: int, length: int, *, path: str, label: str) -> None:
        """Copy a raw file into the blob, from where an earlier import has come.

        Raises:
            DeviceError: The file is shorter than it was.
            NoSpaceError: As `Blob.write`; before the first byte if the file's data do not fit.
        """
        self._check_space(source, length, path=path)
        with progress(label, data_size(source, length)) as advance:
            fill_new(
                self.blob,
                source,
                length,
                path=path,
                advance=advance,
                start=self._state.offset,
                note=self._note_durable,
            )

    def _check_space(self, source: int, length: int, *, path: str) -> None:
        """Refuse what cannot fit; a blob that is continued, or is thick, has its clusters."""
        if self._is_resumed or not self.blob.info.thin:
            return
        with naming(store=self._store.device_name):
            check_space(
                self._store.free_clusters,
                source,
                length,
                path=path,
                cluster_size=self._store.cluster_size,
            )

    def _note_durable(self, offset: int) -> None:
        """Make all that was written durable: the blob holds the source up to `offset`."""
        self._state = msgspec.structs.replace(self._state, offset=offset)
        self.blob.set_attributes({IMPORT_STATE: msgspec.json.encode(self._state)})

    def finish(self, name: str | None) -> None:
        """Let the blob be complete: its name comes, and the mark goes, by one write."""
        with interrupts.Held():
            self.blob.set_attributes({IMPORT_STATE: None}, name=name)
            if self._left.what:
                self._left.what = f"blob {self.blob.id:#x} is complete"


def worth_keeping(store: store_kinds.AnyStore, blob_ids: Sequence[BlobId]) -> set[BlobId]:
    """Return which of these blobs an import can go on with, and the snapshots below them.

    An import of which nothing is durable yet begins as well from the start.
    """
    kept: set[BlobId] = set()
    for info, state in _left(store):
        if info.blob_id in blob_ids and (state.offset or info.parent is not None):
            kept |= {info.blob_id, *(each.blob_id for each in ancestors(store, info.blob_id))}
    return kept


def _left(store: store_kinds.AnyStore) -> Iterator[tuple[BlobInfo, ImportState]]:
    """Yield the blobs that an import can go on with."""
    for info, _command in list(unfinished_blobs(store)):
        text = info.xattrs.get(IMPORT_STATE, INCOMPLETE)
        if text != INCOMPLETE and not info.read_only:
            try:
                yield info, msgspec.json.decode(text, type=ImportState)
            except msgspec.MsgspecError:
                continue
