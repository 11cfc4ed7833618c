"""What a corruption declares of itself, and how the catalogue of them is put together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Final, Literal

from blobstore.fsck.finding import Finding, Severity
from blobstore.units import BlobId
from tests.proof.corruptions.image import StoreImage
from tests.proof.corruptions.sample import Sample

Mode = Literal["leaks", "safe", "all"]
MODES: Final[tuple[Mode, ...]] = ("leaks", "safe", "all")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a check must see it; None does not matter."""

    blob: BlobId | None = None
    page: int | None = None
    cluster: int | None = None

    def is_met_by(self, finding: Finding) -> bool:
        """Tell whether a finding names this place."""
        pairs = zip(
            (self.blob, self.page, self.cluster),
            (finding.blob, finding.page, finding.cluster),
            strict=True,
        )
        return all(wanted is None or wanted == found for wanted, found in pairs)


ANYWHERE: Final = Place()


@dataclass(frozen=True, slots=True)
class Corruption:
    """One thing to break.

    `invariants` are those that break with it; a check names at least the first.
    `mode` is the weakest repair that mends it, None where nothing is to be mended (a
    note) or nothing can be. `touches` names the blobs that a repair may change, those included
    that read through them.
    """

    name: str
    invariants: tuple[int, ...]
    severity: Severity
    mode: Mode | None
    dirty: bool
    touches: tuple[str, ...]
    apply: Callable[[StoreImage], Place | None]

    def break_store(self, sound: Sample) -> tuple[bytes, Place]:
        """Return the broken store, and where a check must see it."""
        image = sound.image(dirty=self.dirty)
        place = self.apply(image)
        if image.data == (sound.dirty if self.dirty else sound.clean):
            raise AssertionError(f"{self.name}: nothing was changed")
        return bytes(image.data), place or ANYWHERE

    def ids_kept(self, names: Mapping[str, BlobId]) -> list[BlobId]:
        """Return the blobs that a repair must leave as they were."""
        return [blob_id for name, blob_id in names.items() if name not in self.touches]


Breaks = Callable[[StoreImage], Place | None]


def corruption(
    *invariants: int,
    mode: Mode | None = "all",
    severity: Severity = Severity.ERROR,
    dirty: bool = False,
    touches: tuple[str, ...] = (),
) -> Callable[[Breaks], Corruption]:
    """Declare a function to be a corruption; its own name becomes the name."""

    def declare(apply: Breaks) -> Corruption:
        name = apply.__name__.strip("_").replace("_", "-")
        return Corruption(name, invariants, severity, mode, dirty, touches, apply)

    return declare


def corruptions_of(*modules: ModuleType) -> tuple[Corruption, ...]:
    """Return all that the modules declare, in their order."""
    declared = (value for module in modules for value in vars(module).values())
    return tuple(value for value in declared if isinstance(value, Corruption))
