"""Broken descriptors: invariants 25 to 28, in the root page of a blob and elsewhere."""

import struct

from blobstore.format.descriptors import FLAGS, XATTR, ExtentTable, Flags, Runs, Xattr
from blobstore.fsck.finding import Severity
from tests.descriptors import Descriptor, Unknown
from tests.proof.corruptions.catalogue import Place, corruption
from tests.proof.corruptions.image import StoreImage

_UNKNOWN_BIT = 1 << 40
_FUTURE_KIND = 77


def _add_to_root(image: StoreImage, name: str, *added: Descriptor) -> Place:
    image.edit_root(name, lambda found: [*found, *added])
    return Place(blob=image.names[name])


@corruption(25, touches=("thick",))
def _two_flags_descriptors(image: StoreImage) -> Place:
    return _add_to_root(image, "thick", Flags(md_ro=1))


@corruption(25, touches=("runs",))
def _flags_of_16_bytes(image: StoreImage) -> Place:
    image.edit_root("runs", lambda found: [Unknown(FLAGS, bytes(16)), *found[1:]])
    return Place(blob=image.names["runs"])


@corruption(25, mode=None, severity=Severity.NOTE)
def _blob_without_flags(image: StoreImage) -> Place:
    """As stores of version 1 have them."""
    image.edit_root("runs", lambda found: found[1:])
    return Place(blob=image.names["runs"])


@corruption(26, mode=None, severity=Severity.NOTE)
def _flag_that_forbids_opening(image: StoreImage) -> Place:
    image.set_flags("thick", add=_UNKNOWN_BIT)
    return Place(blob=image.names["thick"])


@corruption(26, mode=None, severity=Severity.NOTE)
def _flag_that_forbids_changes(image: StoreImage) -> Place:
    image.set_flags("thin", data_ro=_UNKNOWN_BIT)
    return Place(blob=image.names["thin"])


@corruption(26, touches=("thick",))
def _descriptor_of_an_unknown_kind(image: StoreImage) -> Place:
    """No flag says that a newer version wrote it: it may have been any other descriptor."""
    return _add_to_root(image, "thick", Unknown(_FUTURE_KIND, b"whatever"))


@corruption(26, mode=None, severity=Severity.NOTE)
def _descriptor_that_a_flag_announces(image: StoreImage) -> Place:
    image.set_flags("thick", add=_UNKNOWN_BIT)
    return _add_to_root(image, "thick", Unknown(_FUTURE_KIND, b"whatever"))


@corruption(27, touches=("thick",))
def _attribute_whose_lengths_do_not_add_up(image: StoreImage) -> Place:
    return _add_to_root(image, "thick", Unknown(XATTR, struct.pack("<HH", 3, 9) + b"abc"))


@corruption(27, touches=("thick",))
def _attribute_shorter_than_its_head(image: StoreImage) -> Place:
    return _add_to_root(image, "thick", Unknown(XATTR, b"ab"))


@corruption(27, touches=("runs",))
def _attribute_that_is_there_twice(image: StoreImage) -> Place:
    return _add_to_root(image, "runs", Xattr("name", b"another"))


@corruption(27, touches=("sealed",))
def _attribute_without_a_name(image: StoreImage) -> Place:
    return _add_to_root(image, "sealed", Xattr("", b"value"))


@corruption(27, touches=("sparse",))
def _attribute_with_a_nul_in_its_name(image: StoreImage) -> Place:
    return _add_to_root(image, "sparse", Xattr("na\0me", b"value"))


@corruption(27, touches=("clone",))
def _parent_of_four_bytes(image: StoreImage) -> Place:
    image.set_internal("clone", "SNAP", bytes(4))
    return Place(blob=image.names["clone"])


@corruption(28, touches=("thick",))
def _both_kinds_of_extents(image: StoreImage) -> Place:
    return _add_to_root(image, "thick", Runs(((image.clusters("thick")[0], 1),)))


@corruption(28, touches=("sparse",), dirty=True)
def _both_kinds_of_extents_in_a_dirty_store(image: StoreImage) -> Place:
    return _add_to_root(image, "sparse", ExtentTable(6, ((0, 1),)))
