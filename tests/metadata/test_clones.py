"""Who is a clone of what."""

from blobstore.metadata.clones import Clones
from blobstore.units import BlobId

A, B, C, D = (BlobId(1 << 32 | number) for number in range(4))


def test_clones_are_ascending_however_they_come() -> None:
    clones = Clones({D: A, B: A, C: A})
    assert clones.of(A) == (B, C, D)
    assert clones.of(B) == ()
    clones.remove(A, C)
    clones.add(B, D)
    clones.add(B, C)
    assert dict(clones.all()) == {A: (B, D), B: (C, D)}


def test_a_snapshot_without_clones_is_none() -> None:
    clones = Clones({B: A})
    clones.remove(A, B)
    clones.remove(A, B)
    clones.forget(C)
    assert dict(clones.all()) == {}
    clones.add(A, B)
    clones.forget(A)
    assert dict(clones.all()) == {}
    assert dict(Clones().all()) == {}
