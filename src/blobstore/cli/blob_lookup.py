"""BLOB on the command line: an id, or the name that one blob alone has; or what a volume has."""

import os
import re
from typing import TYPE_CHECKING, Final

import click

from blobstore.cli.output import printable
from blobstore.errors import InvalidArgumentError, NotFoundError
from blobstore.units import BlobId

if TYPE_CHECKING:
    from blobstore import Blob
    from blobstore.cli.store_kinds import AnyStore

_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")


def id_in(which: str) -> BlobId | None:
    """Return the id that BLOB is if it is no name: a number, decimal or 0x..."""
    if not _NUMBER.fullmatch(which):
        return None
    return BlobId(int(which, 16 if which[:2] in ("0x", "0X") else 10))


def find_blob(store: "AnyStore", which: str) -> BlobId:
    """Return the id of the blob that BLOB means. A number is an id if there is such a blob.

    A volume is also found by its uuid, its unique id and its alias, STORE/NAME.

    Raises:
        NotFoundError: No blob has that id or name.
        InvalidArgumentError: Several blobs have that name; the message lists their ids.
    """
    number = id_in(which)
    if number is not None and number in store.blob_ids():
        return number
    try:
        from blobstore import Blobstore

        return store.find(which) if isinstance(store, Blobstore) else store.volume_info(which).id
    except NotFoundError as error:
        if number is None:
            raise
        raise NotFoundError(f"blob {number:#x}: no such blob").at(store=error.filename) from error


def warn_of_name(store: "AnyStore", name: str | None) -> None:
    """Say on standard error that a new name means another blob: the blob of this id."""
    number = None if name is None else id_in(name)
    if number is not None and number in store.blob_ids():
        what = f"a blob has the id {name}: as BLOB, {name} is that blob, not the blob of this name"
        click.echo(printable(f"warning: {what}"), err=True)


def warn_of_same_names(store: "AnyStore", name: str) -> None:
    """Say on standard error that several blobs have a name now."""
    from blobstore import Blobstore

    if not isinstance(store, Blobstore):
        return
    try:
        store.find(name)
    except InvalidArgumentError as error:
        click.echo(printable(f"warning: {error.strerror}; use their ids"), err=True)


def open_blob(store: "AnyStore", which: str) -> "Blob":
    """Open the blob that BLOB means.

    Raises:
        BlobstoreError: As `find_blob` and `Blobstore.open_blob`.
    """
    return store.open_blob(find_blob(store, which))


def open_to_change(store: "AnyStore", which: str) -> "Blob":
    """Open the blob that BLOB means, for a command that changes it or makes another one of it.

    That is never the super blob of a volume store: SPDK finds the store's name and uuid in it.

    Raises:
        InvalidArgumentError: It is the store itself.
        BlobstoreError: As `open_blob`.
    """
    from blobstore import Volume, VolumeStore

    blob = open_blob(store, which)
    if isinstance(store, VolumeStore) and not isinstance(blob, Volume):
        blob.close()
        error = InvalidArgumentError(f"blob {blob.id:#x}: is the store itself, no volume")
        raise error.at(store=store.device_name)
    return blob


def delete_blob(store: "AnyStore", blob_id: BlobId) -> None:
    """Delete a blob or a volume.

    Raises:
        BlobstoreError: As `Blobstore.delete_blob` and `VolumeStore.delete_volume`.
    """
    from blobstore import Blobstore

    if isinstance(store, Blobstore):
        store.delete_blob(blob_id)
    else:
        store.delete_volume(blob_id)


def name_matches(which: str, name: bytes | None) -> bool:
    """Say whether a blob's attribute `name` is what was typed; NUL padding does not count."""
    return name is not None and name.rstrip(b"\0") == os.fsencode(which)


def choose(which: str, found: list[BlobId]) -> BlobId:
    """Return the one blob that rescue found for a name.

    Raises:
        NotFoundError: There is none.
        InvalidArgumentError: There are several; the message lists their ids.
    """
    if not found:
        raise NotFoundError(f"no blob is named {which!r}")
    if len(found) > 1:
        ids = ", ".join(f"{blob_id:#x}" for blob_id in found)
        raise InvalidArgumentError(f"{len(found)} blobs are named {which!r}: {ids}")
    return found[0]
