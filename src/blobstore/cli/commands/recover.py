"""`recover`: leave a store clean."""

from dataclasses import replace

from blobstore import BlobstoreError, CorruptError
from blobstore.api.open_store import OpenStore
from blobstore.cli.options import StoreOptions, store_command
from blobstore.cli.output import print_result
from blobstore.cli.rendering import render_store, store_fields


@store_command("recover", changes=True)
def command(options: StoreOptions) -> None:
    """Recover a store after a crash, and leave it clean; a clean store stays as it is."""
    with options.open(read_only=False) as store:
        _refuse_quarantine(store)
        found = store.info
    info = replace(found, clean=True)
    fields = {"recovered": not found.clean, **store_fields(info, store)}
    head = "was clean already" if found.clean else "recovered"
    print_result(fields, f"{head}\n{render_store(info, store)}", as_json=options.as_json)


def _refuse_quarantine(store: OpenStore) -> None:
    """Refuse a store that stays read-only, and therefore dirty.

    Raises:
        CorruptError: A blob is in quarantine, and --force was not given.
    """
    if store.read_only:
        reasons = [_named(f"blob {blob_id:#x}: ", why) for blob_id, why in store.errors.items()]
        raise CorruptError(
            f"{store.device_name}: not recovered: {'; '.join(reasons) or 'it is read-only'}"
        )


def _named(place: str, why: BlobstoreError) -> str:
    """Say which blob it is, once."""
    return place + why.strerror.removeprefix(place)
