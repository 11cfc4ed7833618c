"""Stores and blobs as JSON fields and as text; the names of the fields are fixed."""

from collections.abc import Sequence
from itertools import groupby
from typing import Final
from uuid import UUID

from blobstore import BlobInfo, BlobstoreError, ClearMethod, StoreInfo, VolumeStore
from blobstore.api.open_store import OpenStore
from blobstore.backup.snapshot_identity import SNAPSHOT_TIME
from blobstore.backup.unfinished import unfinished_by
from blobstore.cli.output import (
    error_fields,
    printable_name,
    render_fields,
    render_table,
    unicode_text,
)
from blobstore.store.salvaged_mark import SALVAGED
from blobstore.units import exact_size, format_size
from blobstore.volumes.identity import UUID_NAME, decode_uuid, decode_volume_name

_NONE: Final = "-"
_VALUE_SHOWN_MAX: Final = 64
_LIST_HEAD: Final = ("ID", "SIZE", "CLUSTERS", "ALLOCATED", "KIND", "PARENT", "NAME")
KIND_COLUMN: Final = _LIST_HEAD.index("KIND")
SALVAGED_PARENT: Final = "salvaged parent"
STORES_OWN: Final = "the store itself"
"""What the super blob of a volume store is: no volume, and no command finds it by name."""


def store_fields(info: StoreInfo, store: OpenStore | None = None) -> dict[str, object]:
    """Return the fields of `info`; of a volume store also its name and uuid."""
    return {
        "version": info.version,
        "clean": info.clean,
        "size": info.size,
        "cluster_size": info.cluster_size,
        "page_size": info.page_size,
        "io_unit_size": info.io_unit_size,
        "total_clusters": info.total_clusters,
        "data_clusters": info.data_clusters,
        "free_clusters": info.free_clusters,
        "md_start": info.md_start,
        "md_len": info.md_len,
        "free_md_pages": info.free_md_pages,
        "bstype": info.bstype.hex(),
        "super_blob": info.super_blob,
        "blobs": info.blob_count,
        "max_growable_size": info.max_growable_size,
        **(_identity_fields(store.name, store.uuid) if isinstance(store, VolumeStore) else {}),
    }


def render_store(info: StoreInfo, store: OpenStore | None = None) -> str:
    """Return the same as text."""
    identity = {}
    if isinstance(store, VolumeStore):
        identity = {"name": printable_name(store.name), "uuid": str(store.uuid)}
    return render_fields(
        {
            **identity,
            "version": str(info.version),
            "clean": _yes_no(info.clean),
            "size": format_size(info.size),
            "cluster size": exact_size(info.cluster_size),
            "page size": exact_size(info.page_size),
            "io unit size": exact_size(info.io_unit_size),
            "clusters": f"{info.total_clusters}, {info.data_clusters} for data, "
            f"{info.free_clusters} free",
            "metadata": f"{info.md_len} pages from page {info.md_start}, {info.free_md_pages} free",
            "type": render_bytes(info.bstype.rstrip(b"\0")) or _NONE,
            "super blob": _render_id(info.super_blob),
            "blobs": str(info.blob_count),
            "growable to": format_size(info.max_growable_size),
        }
    )


def blob_fields(
    info: BlobInfo, *, long: bool, sha256: str | None = None, in_volumes: bool = False
) -> dict[str, object]:
    """Return one entry of `list`; `in_volumes` says that it is in a volume store."""
    external = info.external_snapshot
    return {
        "id": info.blob_id,
        "clusters": info.cluster_count,
        "size": info.size,
        "allocated_clusters": info.allocated_clusters,
        "thin": info.thin,
        "read_only": info.read_only,
        "snapshot": info.snapshot,
        "clone": is_clone(info),
        "parent": info.parent,
        "clones": info.clones,
        "external_snapshot": None if external is None else external.hex(),
        "extent_table": info.extent_table,
        "clear_method": ClearMethod(info.clear_method).name.lower(),
        "xattrs": xattr_fields(info.xattrs),
        **_unfinished_fields(info),
        **(_volume_fields(info) if in_volumes else {}),
        **(_long_fields(info) if long else {}),
        **({} if sha256 is None else {"sha256": sha256}),
    }


def _unfinished_fields(info: BlobInfo) -> dict[str, object]:
    """Return the command that has not finished a blob, of blobs that are not complete."""
    command = unfinished_by(info.xattrs)
    return {} if command is None else {"unfinished": command}


def _volume_fields(info: BlobInfo) -> dict[str, object]:
    """Return the name and uuid of a volume; of the super blob they are the store's."""
    uuid = decode_uuid(info.xattrs.get(UUID_NAME))
    return _identity_fields(decode_volume_name(info.xattrs), uuid)


def _identity_fields(name: str, uuid: UUID | None) -> dict[str, object]:
    return {"name": unicode_text(name), "uuid": None if uuid is None else str(uuid)}


def _long_fields(info: BlobInfo) -> dict[str, object]:
    return {
        "extents": [list(extent) for extent in info.extents],
        "metadata_pages": info.metadata_pages,
        "extent_pages": info.extent_pages,
        "invalid_flags": info.invalid_flags,
        "data_ro_flags": info.data_ro_flags,
        "md_ro_flags": info.md_ro_flags,
        "internal_xattrs": xattr_fields(info.internal_xattrs),
    }


def failed_fields(blob_id: int, error: BlobstoreError) -> dict[str, object]:
    """Return the entry of a blob that cannot be opened."""
    return {"id": blob_id, "error": error_fields(error.message, error.errno)}


def xattr_fields(xattrs: dict[str, bytes]) -> dict[str, str]:
    """Return attributes in their order, the values in hex."""
    return {unicode_text(name): value.hex() for name, value in xattrs.items()}


def is_clone(info: BlobInfo) -> bool:
    """Say whether the blob reads something else where it holds nothing itself."""
    return info.parent is not None or info.external_snapshot is not None


def parent_fields(info: BlobInfo) -> dict[str, object]:
    """Return what changing a blob's parent changes."""
    fields = blob_fields(info, long=False)
    names = ("id", "thin", "allocated_clusters", "parent", "external_snapshot")
    return {name: fields[name] for name in names}


def render_blob(info: BlobInfo, *, has_salvaged_parent: bool = False) -> str:
    """Return a blob in full as text."""
    return render_fields(
        {
            "id": f"{info.blob_id:#x}",
            "size": f"{format_size(info.size)}, {_count_of_clusters(info.cluster_count)}",
            "allocated": _count_of_clusters(info.allocated_clusters),
            "kind": kind_of(info, has_salvaged_parent=has_salvaged_parent),
            "parent": _render_parent(info),
            "clones": " ".join(f"{clone:#x}" for clone in info.clones) or _NONE,
            "clear method": ClearMethod(info.clear_method).name.lower(),
            "extents": render_extents(info.extents),
            "metadata pages": _render_numbers(info.metadata_pages),
            "extent pages": _render_extent_pages(info.extent_pages)
            if info.extent_table
            else "none, extents as runs",
            "flags": f"invalid {info.invalid_flags:#x}, data read-only {info.data_ro_flags:#x}, "
            f"metadata read-only {info.md_ro_flags:#x}",
            **_render_xattrs("xattr", info.xattrs),
            **_render_xattrs("internal xattr", info.internal_xattrs),
        }
    )


def _render_xattrs(kind: str, xattrs: dict[str, bytes]) -> dict[str, str]:
    return {f"{kind} {printable_name(name)}": render_bytes(value) for name, value in xattrs.items()}


def render_bytes(value: bytes) -> str:
    """Show a value as text where it is one, NULs at its end or not, otherwise in hex.

    Long values are cut.
    """
    shown = value[:_VALUE_SHOWN_MAX]
    rest = f" ... ({len(value)} bytes)" if len(value) > len(shown) else ""
    text = shown.rstrip(b"\0").decode("utf-8", "replace")
    if shown and not text:
        return f"hex:{shown.hex()}{rest}"
    return (text if text.isprintable() and "\ufffd" not in text else f"hex:{shown.hex()}") + rest


def render_extents(extents: Sequence[tuple[int, int]]) -> str:
    """Show where a blob's clusters are, in order."""
    return (
        ", ".join(
            f"{count} x hole" if first == 0 else f"{first}..{first + count - 1}"
            for first, count in extents
        )
        or _NONE
    )


def render_list(rows: Sequence[Sequence[str]], *, in_volumes: bool = False) -> str:
    """Lay out the rows of a list, cells as `list_row` makes them."""
    head = (*_LIST_HEAD, "UUID") if in_volumes else _LIST_HEAD
    return render_table([head, *rows])


def list_row(info: BlobInfo, *, in_volumes: bool = False) -> list[str]:
    """Return one line of a list; of a blob that cannot be opened at most the name is known."""
    uuid = decode_uuid(info.xattrs.get(UUID_NAME))
    names = [
        render_bytes(info.xattrs.get("name", b"").rstrip(b"\0")) or _NONE,
        *([str(uuid or _NONE)] if in_volumes else []),
    ]
    if info.error is not None:
        return [f"{info.blob_id:#x}", _NONE, _NONE, _NONE, "error", _NONE, *names]
    return [
        f"{info.blob_id:#x}",
        format_size(info.size),
        str(info.cluster_count),
        str(info.allocated_clusters),
        kind_of(info),
        _render_parent(info),
        *names,
    ]


def kind_of(info: BlobInfo, *, has_salvaged_parent: bool = False) -> str:
    """Say in words what a blob is.

    To SPDK, and in JSON, a snapshot is what has clones. Here it is one without clones too, if
    it has the time of a snapshot, such as one that was received.
    """
    is_snapshot = info.snapshot or (info.data_read_only and SNAPSHOT_TIME in info.xattrs)
    words = {
        "snapshot": is_snapshot,
        "clone": is_clone(info),
        "thin" if info.thin else "thick": True,
        "read-only": info.read_only and not is_snapshot,
        f"unfinished {unfinished_by(info.xattrs)}": unfinished_by(info.xattrs) is not None,
        SALVAGED: info.salvaged,
        SALVAGED_PARENT: has_salvaged_parent,
    }
    return " ".join(word for word, holds in words.items() if holds)


def _render_parent(info: BlobInfo) -> str:
    if info.external_snapshot is not None:
        return f"external {render_bytes(info.external_snapshot)}"
    return _render_id(info.parent)


def _render_id(blob_id: int | None) -> str:
    return _NONE if blob_id is None else f"{blob_id:#x}"


def _render_numbers(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers)) or _NONE


def _render_extent_pages(numbers: Sequence[int]) -> str:
    """Show the pages in order; 0 is a page that is not there yet."""
    parts: list[str] = []
    for is_there, group in groupby(numbers, key=bool):
        pages = [*group]
        parts += [str(page) for page in pages] if is_there else [f"{len(pages)} x none"]
    return " ".join(parts) or _NONE


def _count_of_clusters(count: int) -> str:
    return f"{count} cluster" if count == 1 else f"{count} clusters"


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"
