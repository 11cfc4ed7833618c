"""The script language of the golden images, run against the library.

A script is a list of lines, one command each; `Replay.run` performs a line and
returns what the original's tool records for it: `rc`, a negative errno, the
number of `free` clusters while a store is loaded, and what the command answers.
One function per command: `COMMANDS` is the whole language.

As a program, `python -m tests.replay [TRACE...]`, it compares traces of the original with
what happens here: see `tests.traces.comparison`.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from blobstore import (
    Blob,
    BlobId,
    BlobInfo,
    Blobstore,
    BlobstoreError,
    BusyError,
    ClosedError,
    DeviceError,
    InvalidArgumentError,
    MemoryDevice,
    NotFoundError,
    dump,
    grow,
)
from blobstore.format.checksum import crc32c
from blobstore.format.super_block import SUPER_BLOCK_SIZE, SuperBlock
from blobstore.operations import Buffer
from blobstore.testing.internals import core_of

COMPACT: Final = 4096
SECTOR: Final = 512
INVALID_ID: Final = 2**64 - 1

Result = dict[str, Any]

_ZEROES: Final = bytes(65536)
_PATTERN_BLOCK: Final = 512
_GOLDEN_RATIO: Final = np.uint64(0x9E3779B97F4A7C15)
_OPTIONS: Final = frozenset(
    {
        "as",
        "bstype",
        "blocklen",
        "clear",
        "cluster_sz",
        "copy",
        "default",
        "esnap",
        "et",
        "file",
        "force_recover",
        "max_channel_ops",
        "max_md_ops",
        "md_page_size",
        "mem",
        "mode",
        "n",
        "num_clusters",
        "num_md_pages",
        "phys",
        "sha",
        "size",
        "thin",
        "torn",
        "unmap",
        "xattrs",
    }
)


# --- pattern(SEED) ---------------------------------------------------------------------------


def pattern(seed: int, length: int, *, offset: int = 0) -> bytes:
    """Return `length` bytes of pattern(seed) from byte `offset`, which is a multiple of 512."""
    first, rest = divmod(offset, _PATTERN_BLOCK)
    assert rest == 0
    count = -(-length // _PATTERN_BLOCK)
    with np.errstate(over="ignore"):
        numbers = np.arange(count, dtype=np.uint64) + np.uint64((first + 1) % 2**64)
        words = _splitmix64(np.uint64(seed % 2**64) + _GOLDEN_RATIO * numbers)
    return np.repeat(words.astype("<u8"), _PATTERN_BLOCK // 8).tobytes()[:length]


def _splitmix64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = x + _GOLDEN_RATIO
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


# --- the device ------------------------------------------------------------------------------


def pieces_of(image: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the pieces of an image that are not zero, and where each of them is."""
    for at in range(0, len(image), len(_ZEROES)):
        piece = image[at : at + len(_ZEROES)]
        if piece != _ZEROES[: len(piece)]:
            yield at, piece


class ReplayDevice(MemoryDevice):
    """A memory device that outlives its stores, counts changes, and fails when told to.

    While `changes_left` is a number, that many writes, zeroes and unmaps are
    done; then, in the mode `drop`, later ones are forgotten, and in the mode
    `fail` everything fails. While `reads_left` is a number, that many reads are
    done, and later ones fail.
    """

    def __init__(
        self,
        size: int,
        block_size: int = 4096,
        *,
        atomic_write_size: int = COMPACT,
        physical_block_size: int | None = None,
        unmap_zeroes: bool = True,
    ) -> None:
        super().__init__(size, block_size, atomic_write_size=atomic_write_size)
        self.physical_block_size = physical_block_size or block_size
        self.unmap_zeroes = unmap_zeroes
        self.change_count = 0
        self.changes_left: int | None = None
        self.reads_left: int | None = None
        self.fails = False
        self.torn = 0

    @classmethod
    def of(
        cls, image: bytes, *, block_size: int = 512, atomic_write_size: int = COMPACT
    ) -> "ReplayDevice":
        """Make a device of an image; what is zero there takes no memory here."""
        device = cls(len(image), block_size, atomic_write_size=atomic_write_size)
        for at, piece in pieces_of(image):
            device._content[at : at + len(piece)] = piece
        return device

    def content(self) -> bytes:
        return bytes(self._content)

    def read(self, offset: int, length: int) -> bytes:
        self._check_readable()
        return super().read(offset, length)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self._check_readable()
        super().read_into(offset, buffers)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        if self._is_done():
            super().write(offset, buffers)
        elif self.torn:
            data = b"".join(bytes(buffer) for buffer in buffers)
            super().write(offset, [data[: self.torn]])
            self.torn = 0

    def write_zeroes(self, offset: int, length: int) -> None:
        if self._is_done():
            super().write_zeroes(offset, length)
        elif self.torn:
            super().write_zeroes(offset, min(length, self.torn))
            self.torn = 0

    def unmap(self, offset: int, length: int) -> None:
        if self.unmap_zeroes:
            self.write_zeroes(offset, length)
        else:
            self._is_done()

    def flush(self) -> None:
        self._check_alive()
        super().flush()

    def close(self) -> None:
        """Stay open: the script loads the store again."""

    def _check_readable(self) -> None:
        self._check_alive()
        if self.reads_left is not None:
            if self.reads_left == 0:
                raise DeviceError("replay: a read fails, as it was told to")
            self.reads_left -= 1

    def _check_alive(self) -> None:
        if self.fails and self.changes_left == 0:
            raise DeviceError("replay: the device fails, as it was told to")

    def _is_done(self) -> bool:
        self.change_count += 1
        self._check_alive()
        if self.changes_left is None:
            return True
        if self.changes_left == 0:
            return False
        self.changes_left -= 1
        return True


class PatternDevice(MemoryDevice):
    """An external snapshot: `pat:SEED:SIZE:BLOCKLEN` is pattern(SEED)."""

    def __init__(self, external_id: bytes) -> None:
        _kind, seed, size, block_size = external_id.decode().split(":")
        super().__init__(0, int(block_size), read_only=True, name=external_id.decode())
        self._set_size(int(size))
        self._content[:] = pattern(int(seed), int(size))


def know_externals(store: Blobstore) -> None:
    """Register every external snapshot that a blob of the store names."""
    for found in store.list_blobs():
        if found.external_snapshot is not None:
            know_external(store, found.external_snapshot)


def know_external(store: Blobstore, external_id: bytes) -> None:
    if external_id not in core_of(store).externals:
        store.register_external(external_id, PatternDevice(external_id))


# --- facts, in the words of the manifests ----------------------------------------------------


def store_facts(store: Blobstore) -> Result:
    """Return what the original's tool says of a loaded store."""
    info = store.info
    return {
        "cluster_size": info.cluster_size,
        "page_size": info.page_size,
        "io_unit_size": info.io_unit_size,
        "free_clusters": info.free_clusters,
        "total_data_clusters": info.data_clusters,
        "total_clusters": info.total_clusters,
        "max_growable_size": info.max_growable_size,
        "md_start": info.md_start,
        "md_len": info.md_len,
        "bstype": info.bstype.hex(),
        "super_blob": info.super_blob,
        "used_md_pages": core_of(store).pages.used.count(),
        "used_cluster_bits": core_of(store).clusters.used.count(),
    }


def blob_facts(store: Blobstore, blob: Blob) -> Result:
    """Return what the original's tool says of an open blob."""
    info = blob.info
    md_read_only = core_of(store).open_blobs[blob.id].md_read_only
    return {
        "id": info.blob_id,
        "num_clusters": info.cluster_count,
        "num_allocated_clusters": info.allocated_clusters,
        "num_io_units": info.size // store.info.io_unit_size,
        "is_thin": info.thin,
        "is_snapshot": info.snapshot,
        "is_clone": info.parent is not None,
        "is_esnap_clone": info.external_snapshot is not None,
        "is_read_only": info.read_only,
        "parent": _parent_fact(info),
        "parent_snapshot": info.parent,
        "clones": info.clones,
        "invalid_flags": info.invalid_flags,
        "data_ro_flags": info.data_ro_flags,
        "md_ro_flags": info.md_ro_flags,
        "data_ro": info.data_read_only,
        "md_ro": md_read_only,
        "clear_method": info.clear_method,
        "use_extent_table": info.extent_table,
        "md_pages": info.metadata_pages,
        "extent_pages": info.extent_pages,
        "cluster_runs": [list(run) for run in info.extents],
        "xattrs": [[name, value.hex()] for name, value in info.xattrs.items()],
        "internal_xattrs": [[name, value.hex()] for name, value in info.internal_xattrs.items()],
    }


def _parent_fact(info: BlobInfo) -> int | str | None:
    return "external" if info.external_snapshot is not None else info.parent


# --- the language ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A command, its arguments, and its options in `key=value` form."""

    command: str
    arguments: list[str]
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Line":
        command, *words = text.split(" ")
        line = cls(command, [])
        for word in words:
            key, equals, value = word.partition("=")
            if equals and key in _OPTIONS:
                line.options[key] = value
            else:
                line.arguments.append(word)
        return line

    def number(self, key: str) -> int | None:
        return int(self.options[key], 0) if key in self.options else None

    def flag(self, key: str, *, default: bool = False) -> bool:
        return bool(int(self.options[key])) if key in self.options else default


def value_of(text: str) -> bytes:
    """Return the bytes that a value stands for: hex, `s:text`, or `@SEED:LENGTH`."""
    if text.startswith("s:"):
        return text[2:].encode()
    if text.startswith("@"):
        seed, length = text[1:].split(":")
        return pattern(int(seed), int(length))
    return bytes.fromhex(text)


def name_of(text: str) -> str:
    """Return an attribute's name: literal, or `#N` for N letters."""
    if not text.startswith("#"):
        return text
    letters = "abcdefghijklmnopqrstuvwxyz"
    return "".join(letters[at % len(letters)] for at in range(int(text[1:])))


def xattrs_of(line: Line) -> dict[str, bytes]:
    pairs = (pair.partition(":") for pair in line.options.get("xattrs", "").split(",") if pair)
    return {name_of(name): value_of(value) for name, _colon, value in pairs}


class Replay:
    """The state of a script: its device, its store, its open blobs and its names."""

    def __init__(self, *, atomic_write_size: int = COMPACT, write_through: bool = False) -> None:
        self.atomic_write_size = atomic_write_size
        self.write_through = write_through
        self.device: ReplayDevice | None = None
        self.store: Blobstore | None = None
        self.handles: dict[int, list[Blob]] = {}
        self.names: dict[str, int] = {}

    def run(self, text: str) -> Result:
        """Perform one line."""
        line = Line.parse(text)
        command = COMMANDS[line.command]
        try:
            result = {"rc": 0, **(command(self, line) or {})}
        except BlobstoreError as error:
            result = {"rc": -error.errno, "error": error}
        if self.store is not None:
            result["free"] = self.store.free_clusters
        return result

    def the_device(self) -> ReplayDevice:
        if self.device is None:
            raise ClosedError("script: no device")
        return self.device

    def the_store(self) -> Blobstore:
        if self.store is None:
            raise ClosedError("script: no store is loaded")
        return self.store

    def blob_id(self, text: str) -> int:
        if text == "invalid":
            return INVALID_ID
        if text in self.names:
            return self.names[text]
        # A name that its line could not give to a blob stands for none.
        return int(text, 0) if text[0].isdigit() else 0

    def blob(self, text: str) -> Blob:
        """Return the handle of a blob that the script has opened."""
        handles = self.handles.get(self.blob_id(text))
        if not handles:
            raise ClosedError(f"script: {text} is not open")
        return handles[-1]

    @contextmanager
    def opened(self, text: str) -> Iterator[Blob]:
        """Open a blob for one command, whether the script has it open or not."""
        with self.the_store().open_blob(self.blob_id(text)) as blob:
            yield blob

    def io_units(self, text: str) -> int:
        return int(text, 0) * self.the_store().info.io_unit_size


Command = Callable[[Replay, Line], Result | None]


def _dev(replay: Replay, line: Line) -> Result:
    """Make a device. None here copies by itself: `copy=1` makes no difference."""
    size = line.number("size") or 0
    replay.device = ReplayDevice(
        size,
        line.number("blocklen") or 512,
        atomic_write_size=replay.atomic_write_size,
        physical_block_size=line.number("phys"),
        unmap_zeroes=line.options.get("unmap", "zero") == "zero",
    )
    return {"size": size}


def _devsize(replay: Replay, line: Line) -> None:
    replay.the_device().resize(int(line.arguments[0]))


def _powerfail(replay: Replay, line: Line) -> None:
    device = replay.the_device()
    device.changes_left = None if line.options.get("mode") == "off" else line.number("n")
    device.fails = line.options.get("mode") == "fail"
    device.torn = line.number("torn") or 0


def _readfail(replay: Replay, line: Line) -> None:
    is_off = line.options.get("mode") == "off"
    replay.the_device().reads_left = None if is_off else line.number("n")


def _iolog(_replay: Replay, _line: Line) -> None:
    """Do nothing: which operations reach the device, and when, is this project's own."""


def _hash(replay: Replay, _line: Line) -> Result:
    content = replay.the_device().content()
    super_block = SuperBlock.decode(content[:SUPER_BLOCK_SIZE])
    pages = super_block.md_start + super_block.md_len
    metadata = content[: pages * (super_block.md_page_size or 4096)]
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "md_sha256": hashlib.sha256(metadata).hexdigest(),
        "md_bytes": len(metadata),
        "clean": int(super_block.clean),
    }


def _rawread(replay: Replay, line: Line) -> Result:
    offset, length = (int(word, 0) for word in line.arguments)
    return {"value": replay.the_device().read(offset, length).hex()}


def _rawwrite(replay: Replay, line: Line) -> None:
    offset, value = line.arguments
    replay.the_device().write(int(offset, 0), [value_of(value)])


def _fixcrc(replay: Replay, line: Line) -> None:
    offset = int(line.arguments[0], 0)
    page = replay.the_device().read(offset, 4092)
    replay.the_device().write(offset + 4092, [crc32c(page).to_bytes(4, "little")])


def _dump(replay: Replay, line: Line) -> None:
    Path(line.arguments[0]).write_bytes(dump(replay.the_device()))


def _init(replay: Replay, line: Line) -> Result:
    _refuse_loaded(replay)
    options: dict[str, Any] = {}
    for key, name in (
        ("cluster_sz", "cluster_size"),
        ("num_md_pages", "md_pages"),
        ("md_page_size", "md_page_size"),
    ):
        if key in line.options:
            options[name] = line.number(key)
    replay.store = Blobstore.create(
        replay.the_device(),
        bstype=line.options.get("bstype", "").encode(),
        clear=line.options.get("clear", "unmap"),
        overwrite=True,
        write_through=replay.write_through,
        **options,
    )
    return store_facts(replay.store)


def _load(replay: Replay, line: Line) -> Result:
    _refuse_loaded(replay)
    bstype = line.options.get("bstype")
    replay.store = Blobstore.open(
        replay.the_device(),
        bstype=None if bstype is None else bstype.encode(),
        force_recovery=line.flag("force_recover"),
        write_through=replay.write_through,
    )
    if line.flag("esnap", default=True):
        know_externals(replay.store)
    return store_facts(replay.store)


def _grow(replay: Replay, line: Line) -> Result:
    _refuse_loaded(replay)
    grow(replay.the_device())
    return _load(replay, line)


def _refuse_loaded(replay: Replay) -> None:
    if replay.store is not None:
        raise BusyError("script: a store is loaded already")


def _grow_live(replay: Replay, _line: Line) -> Result:
    replay.the_store().grow()
    return store_facts(replay.the_store())


def _unload(replay: Replay, _line: Line) -> None:
    replay.the_store().unload()
    replay.store = None


def _destroy(replay: Replay, _line: Line) -> None:
    replay.the_store().destroy()
    replay.store = None


def _crash(replay: Replay, _line: Line) -> None:
    replay.store = None
    replay.handles.clear()


def _bench(replay: Replay, line: Line) -> None:
    """Only `forget`, the original's way to crash."""
    assert line.arguments == ["forget"]
    _crash(replay, line)


def _bsinfo(replay: Replay, _line: Line) -> Result:
    return store_facts(replay.the_store())


def _iterate(replay: Replay, _line: Line) -> Result:
    """List the blobs that open; the end of the list is the original's ENOENT."""
    found = replay.the_store().iter_blobs(on_error=lambda _error: None)
    return {"rc": -2, "ids": [blob.id for blob in found]}


def _state(replay: Replay, _line: Line) -> Result:
    """Describe the store, and every blob with the hash of its content."""
    store = replay.the_store()
    return {**store_facts(store), "blobs": [_described(store, key) for key in store.blob_ids()]}


def _described(store: Blobstore, key: int) -> Result:
    try:
        blob = store.open_blob(key)
    except BlobstoreError as error:
        return {"id": key, "open_rc": -error.errno}
    with blob:
        return {**blob_facts(store, blob), "sha256": _hash_of(blob)}


def _hash_of(blob: Blob) -> str:
    return hashlib.sha256(blob.read(blob.size)).hexdigest()


def _set_bstype(replay: Replay, line: Line) -> None:
    replay.the_store().set_type(line.arguments[0].encode())


def _set_super(replay: Replay, line: Line) -> None:
    wanted = replay.blob_id(line.arguments[0])
    replay.the_store().set_super_blob(None if wanted == INVALID_ID else wanted)


def _get_super(replay: Replay, _line: Line) -> Result:
    return {"id": replay.the_store().super_blob}


def _create(replay: Replay, line: Line) -> Result:
    store = replay.the_store()
    clear = {"default": 0, "none": 1, "unmap": 2, "zeroes": 3}[line.options.get("clear", "default")]
    external = line.options["esnap"].encode() if "esnap" in line.options else None
    if external is not None:
        know_external(replay.the_store(), external)
    with store.create_blob(
        (line.number("num_clusters") or 0) * store.cluster_size,
        thin=line.flag("thin"),
        extent_table=line.flag("et", default=True),
        clear_method=clear,
        xattrs=xattrs_of(line),
        external_snapshot=external,
    ) as blob:
        return _named(replay, line, blob)


def _named(replay: Replay, line: Line, blob: Blob) -> Result:
    if "as" in line.options:
        replay.names[line.options["as"]] = blob.id
    return {"id": blob.id}


def _open(replay: Replay, line: Line) -> Result:
    blob_id = replay.blob_id(line.arguments[0])
    handles = replay.handles.setdefault(blob_id, [])
    assert "clear" not in line.options, "a blob's own clear method counts"
    handles.append(replay.the_store().open_blob(blob_id))
    state = core_of(replay.the_store()).open_blobs[handles[-1].id]
    return {"open_ref": state.open_count + state.pin_count}


def _close(replay: Replay, line: Line) -> None:
    blob = replay.blob(line.arguments[0])
    try:
        blob.close()
    finally:
        replay.handles[blob.id].remove(blob)


def _delete(replay: Replay, line: Line) -> None:
    replay.the_store().delete_blob(replay.blob_id(line.arguments[0]))


def _resize(replay: Replay, line: Line) -> None:
    count = int(line.arguments[1])
    replay.blob(line.arguments[0]).resize(count * replay.the_store().cluster_size)


def _sync(replay: Replay, line: Line) -> None:
    replay.blob(line.arguments[0]).sync_md()


def _set_ro(replay: Replay, line: Line) -> None:
    replay.blob(line.arguments[0]).set_read_only()


def _info(replay: Replay, line: Line) -> Result:
    blob = replay.blob(line.arguments[0])
    facts = blob_facts(replay.the_store(), blob)
    if line.flag("sha"):
        facts["sha256"] = _hash_of(blob)
    return facts


def _write(replay: Replay, line: Line) -> None:
    name, offset, length, seed = line.arguments
    at = replay.io_units(offset)
    data = pattern(int(seed), replay.io_units(length), offset=at)
    replay.blob(name).write(data, at)


def _writev(replay: Replay, line: Line) -> None:
    """Write as `write` does, from two buffers."""
    name, offset, length, seed = line.arguments
    at = replay.io_units(offset)
    data = pattern(int(seed), replay.io_units(length), offset=at)
    middle = len(data) // 3
    replay.blob(name).writev([data[:middle], data[middle:]], at)


def _read(replay: Replay, line: Line) -> Result:
    name, offset, length = line.arguments
    data = replay.blob(name).read(replay.io_units(length), replay.io_units(offset))
    return {"sha256": hashlib.sha256(data).hexdigest()}


def _readv(replay: Replay, line: Line) -> Result:
    """Read as `read` does, into two buffers."""
    name, offset, length = line.arguments
    data = memoryview(bytearray(replay.io_units(length)))
    middle = len(data) // 3
    replay.blob(name).readv([data[:middle], data[middle:]], replay.io_units(offset))
    return {"sha256": hashlib.sha256(data).hexdigest()}


def _next(
    replay: Replay, line: Line, find: Callable[[Blob], Callable[[int], int | None]]
) -> Result:
    name, offset = line.arguments
    found = find(replay.blob(name))(replay.io_units(offset))
    io_unit = replay.the_store().info.io_unit_size
    return {"io_unit": None if found is None else found // io_unit}


def _next_alloc(replay: Replay, line: Line) -> Result:
    return _next(replay, line, lambda blob: blob.next_allocated)


def _next_unalloc(replay: Replay, line: Line) -> Result:
    return _next(replay, line, lambda blob: blob.next_unallocated)


def _write_zeroes(replay: Replay, line: Line) -> None:
    name, offset, length = line.arguments
    replay.blob(name).write_zeroes(replay.io_units(offset), replay.io_units(length))


def _unmap(replay: Replay, line: Line) -> None:
    name, offset, length = line.arguments
    replay.blob(name).unmap(replay.io_units(offset), replay.io_units(length))


def _set_xattr(replay: Replay, line: Line) -> None:
    name, key, value = line.arguments
    replay.blob(name).set_xattr(name_of(key), value_of(value))


def _get_xattr(replay: Replay, line: Line) -> Result:
    name, key = line.arguments
    return {"value": replay.blob(name).get_xattr(name_of(key)).hex()}


def _get_ixattr(replay: Replay, line: Line) -> Result:
    name, key = line.arguments
    internal = replay.blob(name).info.internal_xattrs
    if key not in internal:
        raise NotFoundError(f"script: no internal attribute {key}")
    return {"value": internal[key].hex()}


def _rm_xattr(replay: Replay, line: Line) -> None:
    name, key = line.arguments
    replay.blob(name).remove_xattr(name_of(key))


def _list_xattr(replay: Replay, line: Line) -> Result:
    return {"names": list(replay.blob(line.arguments[0]).xattrs)}


def _snapshot(replay: Replay, line: Line) -> Result:
    with replay.opened(line.arguments[0]) as blob, blob.snapshot(xattrs=xattrs_of(line)) as made:
        return _named(replay, line, made)


def _clone(replay: Replay, line: Line) -> Result:
    with replay.opened(line.arguments[0]) as blob, blob.clone(xattrs=xattrs_of(line)) as made:
        return _named(replay, line, made)


def _inflate(replay: Replay, line: Line) -> None:
    with replay.opened(line.arguments[0]) as blob:
        blob.inflate()


def _decouple(replay: Replay, line: Line) -> None:
    with replay.opened(line.arguments[0]) as blob:
        blob.decouple()


def _set_parent(replay: Replay, line: Line) -> None:
    name, parent = line.arguments
    with replay.opened(name) as blob:
        blob.set_parent(replay.blob_id(parent))


def _set_external_parent(replay: Replay, line: Line) -> None:
    name, external_id = line.arguments
    with replay.opened(name) as blob:
        know_external(replay.the_store(), external_id.encode())
        blob.set_external_parent(external_id.encode())


def _get_esnap_id(replay: Replay, line: Line) -> Result:
    found = replay.blob(line.arguments[0]).info.external_snapshot
    if found is None:
        raise InvalidArgumentError("script: no clone of an external snapshot")
    return {"value": found.hex()}


def _get_clones(replay: Replay, line: Line) -> Result:
    """Answer for closed blobs too, as the original does, and for ids that are none."""
    clones = core_of(replay.the_store()).clones
    return {"clones": list(clones.of(BlobId(replay.blob_id(line.arguments[0]))))}


def _get_parent(replay: Replay, line: Line) -> Result:
    """Answer for closed blobs too, as the original does, and for ids that are none."""
    wanted = replay.blob_id(line.arguments[0])
    families = core_of(replay.the_store()).clones.all()
    return {"id": next((key for key, clones in families if wanted in clones), None)}


def _shallow_copy(replay: Replay, line: Line) -> Result:
    """Copy to a new device; the answer tells how much arrived, and what is there then."""
    io_unit = replay.the_store().info.io_unit_size
    block_size = line.number("blocklen") or io_unit
    target = MemoryDevice(line.number("size") or 0, block_size)
    with replay.opened(line.arguments[0]) as blob:
        copied = blob.shallow_copy(target)
    blocks = copied * replay.the_store().cluster_size // block_size
    content = hashlib.sha256(target.read(0, target.size_bytes)).hexdigest()
    return {"sync_rc": 0, "status": copied, "sha256": content, "blocks": blocks}


COMMANDS: Final[dict[str, Command]] = {
    "bench": _bench,
    "bsinfo": _bsinfo,
    "clone": _clone,
    "close": _close,
    "crash": _crash,
    "create": _create,
    "decouple": _decouple,
    "delete": _delete,
    "destroy": _destroy,
    "dev": _dev,
    "devsize": _devsize,
    "dump": _dump,
    "fixcrc": _fixcrc,
    "get_clones": _get_clones,
    "get_esnap_id": _get_esnap_id,
    "get_ixattr": _get_ixattr,
    "get_parent": _get_parent,
    "get_super": _get_super,
    "get_xattr": _get_xattr,
    "grow": _grow,
    "grow_live": _grow_live,
    "hash": _hash,
    "inflate": _inflate,
    "info": _info,
    "init": _init,
    "iolog": _iolog,
    "iterate": _iterate,
    "list_xattr": _list_xattr,
    "load": _load,
    "next_alloc": _next_alloc,
    "next_unalloc": _next_unalloc,
    "open": _open,
    "powerfail": _powerfail,
    "rawread": _rawread,
    "rawwrite": _rawwrite,
    "read": _read,
    "readfail": _readfail,
    "readv": _readv,
    "resize": _resize,
    "rm_xattr": _rm_xattr,
    "set_bstype": _set_bstype,
    "set_external_parent": _set_external_parent,
    "set_parent": _set_parent,
    "set_ro": _set_ro,
    "set_super": _set_super,
    "set_xattr": _set_xattr,
    "shallow_copy": _shallow_copy,
    "snapshot": _snapshot,
    "state": _state,
    "sync": _sync,
    "unload": _unload,
    "unmap": _unmap,
    "write": _write,
    "write_zeroes": _write_zeroes,
    "writev": _writev,
}


if __name__ == "__main__":
    from tests.traces.comparison import main

    sys.exit(main([Path(name) for name in sys.argv[1:]]))
