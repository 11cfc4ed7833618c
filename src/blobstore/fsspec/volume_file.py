"""The file objects that `BlobstoreFileSystem.open` returns."""

from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from fsspec.spec import AbstractBufferedFile

from blobstore.errors import ExistsError
from blobstore.fsspec.lengths import length_of
from blobstore.fsspec.upload import Upload
from blobstore.units import KIB, MIB, ceil_div

if TYPE_CHECKING:
    from blobstore.fsspec.filesystem import BlobstoreFileSystem

_READ_BLOCK_SIZE: Final = 256 * KIB
_WRITE_BLOCK_SIZE: Final = 4 * MIB


class VolumeReader(AbstractBufferedFile):
    """A volume that is read; the store stays open until the file is closed."""

    def __init__(self, fs: "BlobstoreFileSystem", path: str, **options: Any) -> None:
        self._uses = ExitStack()
        with ExitStack() as stack:
            store = stack.enter_context(fs.use_store())
            self._volume = stack.enter_context(fs.open_volume(store, path))
            options["size"] = length_of(self._volume, store.cluster_size)
            options["block_size"] = options["block_size"] or _READ_BLOCK_SIZE
            super().__init__(fs, path, "rb", **options)
            self._uses = stack.pop_all()

    def _fetch_range(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        return self._volume.read(end - start, start) if start < end else b""

    def close(self) -> None:
        """Close the file, and the store if nothing else uses it."""
        with self._uses:
            super().close()


class VolumeWriter(AbstractBufferedFile):
    """A volume that is written from its start to its end.

    It appears under its name when the file is closed, or when the transaction ends. If the
    body of its `with` fails, nothing is left of it.
    """

    blocksize: int

    def __init__(self, fs: "BlobstoreFileSystem", path: str, mode: str, **options: Any) -> None:
        self._upload: Upload | None = None
        if mode == "xb" and fs.exists(path):
            raise ExistsError(f"volume {path!r}: exists")
        options["block_size"] = options["block_size"] or _WRITE_BLOCK_SIZE
        super().__init__(fs, path, mode, **options)

    def _initiate_upload(self) -> None:
        self._upload = Upload(self.fs.store, self.path)
        cluster_size = self._upload.store.cluster_size
        self.blocksize = ceil_div(self.blocksize, cluster_size) * cluster_size

    def _upload_chunk(self, final: bool = False) -> bool:
        assert self._upload is not None
        try:
            self._upload.write(self.buffer.getbuffer(), self.offset)
        except BaseException:
            self.discard()
            raise
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        """Let the volume have its name.

        Raises:
            BlobstoreError: As `Upload.commit`.
        """
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.commit(self.loc, replace=self.mode != "xb")

    def discard(self) -> None:
        """Remove what was written; what had the name before stays."""
        self.forced = self.closed = True
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.discard()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.discard()
        super().__exit__(kind, error, trace)
