"""Broken relations between blobs: invariants 39 to 45."""

from blobstore.format.descriptors import (
    EXTERNAL_SNAPSHOT,
    HAS_INTERNAL_XATTRS,
    READ_ONLY,
    THIN_PROV,
    ExtentTable,
    Xattr,
)
from blobstore.format.geometry import blob_id_of
from blobstore.format.page import HEAD
from blobstore.fsck.finding import Severity
from blobstore.metadata.blob_state import SNAP, SNAPSHOT_IN_PROGRESS, SNAPSHOT_REMOVAL
from tests.descriptors import Descriptor
from tests.proof.corruptions.catalogue import Place, corruption
from tests.proof.corruptions.image import StoreImage, entries_of, extents_of

_FAMILY = ("old", "middle", "origin", "clone")


@corruption(39, touches=("clone",))
def _clone_of_nothing(image: StoreImage) -> Place:
    image.set_parent("clone", blob_id_of(image.free_pages[0]))
    return Place(blob=image.names["clone"])


@corruption(39, touches=("clone",))
def _clone_of_an_extent_page(image: StoreImage) -> Place:
    image.set_parent("clone", blob_id_of(image.extent_pages("entry")[0]))
    return Place(blob=image.names["clone"])


@corruption(39, touches=("origin",), dirty=True)
def _clone_of_what_lies_outside(image: StoreImage) -> Place:
    image.set_parent("origin", 0xFFFF_FFFF_FFFF_FFFF)
    return Place(blob=image.names["origin"])


@corruption(39, touches=_FAMILY)
def _snapshot_that_can_be_changed(image: StoreImage) -> None:
    image.set_flags("old", data_ro=0)


@corruption(39, touches=("thick",))
def _thick_clone(image: StoreImage) -> Place:
    image.set_parent("thick", image.names["sealed"])
    return Place(blob=image.names["thick"])


@corruption(40, touches=("thin",))
def _clone_of_itself(image: StoreImage) -> Place:
    image.set_parent("thin", image.names["thin"])
    image.set_flags("thin", data_ro=READ_ONLY)
    return Place(blob=image.names["thin"])


@corruption(40, touches=_FAMILY)
def _two_clones_of_each_other(image: StoreImage) -> None:
    image.set_parent("old", image.names["middle"])
    image.set_flags("old", add=THIN_PROV)


@corruption(40, touches=(*_FAMILY, "sealed"), dirty=True)
def _three_clones_of_each_other(image: StoreImage) -> None:
    image.set_parent("old", image.names["sealed"])
    image.set_parent("sealed", image.names["middle"])
    for name in ("old", "sealed"):
        image.set_flags(name, add=THIN_PROV)


@corruption(41, touches=("external",))
def _external_clone_without_its_flag(image: StoreImage) -> Place:
    image.set_flags("external", drop=EXTERNAL_SNAPSHOT)
    return Place(blob=image.names["external"])


@corruption(41, touches=("thin",))
def _flag_of_an_external_clone_alone(image: StoreImage) -> Place:
    image.set_flags("thin", add=EXTERNAL_SNAPSHOT)
    return Place(blob=image.names["thin"])


@corruption(41, mode="safe", severity=Severity.NOTE)
def _old_parent_beside_an_external_one(image: StoreImage) -> Place:
    image.set_parent("external", image.names["sealed"])
    return Place(blob=image.names["external"])


@corruption(42, mode=None, severity=Severity.NOTE)
def _clone_smaller_than_its_snapshot(image: StoreImage) -> Place:
    return _resize_clone(image, 3)


@corruption(42, mode=None, severity=Severity.NOTE)
def _clone_larger_than_its_snapshot(image: StoreImage) -> Place:
    return _resize_clone(image, 6)


def _resize_clone(image: StoreImage, count: int) -> Place:
    """Give the clone, which owns its first cluster only, another size."""
    (page,) = image.extent_pages("clone")
    image.put_extent_page(page, 0, [*image.clusters("clone"), *[0] * (count - 1)])
    image.put_table("clone", ExtentTable(count, ((page, 1),)))
    return Place(blob=image.names["clone"])


def _mark_snapshot(image: StoreImage, name: str, marker: str, partner: int) -> Place:
    image.set_internal(name, marker, partner.to_bytes(8, "little"))
    return Place(blob=image.names[name])


@corruption(43, mode="safe", severity=Severity.NOTE, dirty=True)
def _snapshot_being_made_that_stands(image: StoreImage) -> Place:
    """The clone's root has the new parent: only the marker is left to be dropped."""
    image.set_flags("old", data_ro=0)
    return _mark_snapshot(image, "old", SNAPSHOT_IN_PROGRESS, image.names["middle"])


@corruption(43, mode="safe", severity=Severity.NOTE, dirty=True)
def _snapshot_being_made_that_is_dropped(image: StoreImage) -> Place:
    """The new root lists the clusters of a blob whose own root was not yet written."""
    page = image.free_pages[0]
    image.put_bytes(page, image.page_bytes(image.root("thick")))
    image.patch_page(page, 0, HEAD.pack(blob_id_of(page), 0, 0))
    names = {**image.names, "new": blob_id_of(page)}
    image.names = names
    return _mark_snapshot(image, "new", SNAPSHOT_IN_PROGRESS, names["thick"])


@corruption(43, mode="safe", severity=Severity.NOTE, dirty=True)
def _snapshot_being_removed_that_stands(image: StoreImage) -> Place:
    return _mark_snapshot(image, "old", SNAPSHOT_REMOVAL, image.names["middle"])


@corruption(43, mode="safe", severity=Severity.NOTE, dirty=True)
def _snapshot_being_removed_that_stands_with_a_merged_clone(image: StoreImage) -> Place:
    """As the original leaves it, which merges the clone's extent page in place."""
    _merge_old_into_middle(image)
    return _mark_snapshot(image, "old", SNAPSHOT_REMOVAL, image.names["middle"])


@corruption(43, mode="safe", severity=Severity.NOTE, dirty=True, touches=("old",))
def _snapshot_being_removed_that_goes(image: StoreImage) -> Place:
    """The clone's root has the merged map and no parent: the snapshot's is left."""
    _merge_old_into_middle(image)

    def is_kept(found: Descriptor) -> bool:
        return not (isinstance(found, Xattr) and found.name == SNAP)

    image.edit_root("middle", lambda found: [d for d in found if is_kept(d)])
    image.set_flags("middle", drop=HAS_INTERNAL_XATTRS)
    return _mark_snapshot(image, "old", SNAPSHOT_REMOVAL, image.names["middle"])


def _merge_old_into_middle(image: StoreImage) -> None:
    """Let the clone own what its snapshot owns, wherever it has nothing of its own."""
    (page,), below = image.extent_pages("middle"), image.clusters("old")
    own = entries_of(extents_of(image.descriptors(page)))
    merged = [mine or theirs for mine, theirs in zip(own, below, strict=True)]
    image.put_extent_page(page, 0, merged)


@corruption(44, dirty=True, touches=("sealed",))
def _snapshot_being_made_of_nothing(image: StoreImage) -> Place:
    partner = blob_id_of(image.free_pages[0])
    return _mark_snapshot(image, "sealed", SNAPSHOT_IN_PROGRESS, partner)


@corruption(44, dirty=True, touches=("sealed",))
def _snapshot_being_removed_without_a_clone(image: StoreImage) -> Place:
    return _mark_snapshot(image, "sealed", SNAPSHOT_REMOVAL, 5)


@corruption(45, mode="safe")
def _clean_store_with_a_snapshot_being_made(image: StoreImage) -> Place:
    return _mark_snapshot(image, "old", SNAPSHOT_IN_PROGRESS, image.names["middle"])


@corruption(45, mode="safe")
def _clean_store_with_a_snapshot_being_removed(image: StoreImage) -> Place:
    return _mark_snapshot(image, "old", SNAPSHOT_REMOVAL, image.names["middle"])


@corruption(44, 45, touches=("sealed",))
def _clean_store_with_a_marker_for_nothing(image: StoreImage) -> Place:
    return _mark_snapshot(image, "sealed", SNAPSHOT_REMOVAL, blob_id_of(image.free_pages[0]))
