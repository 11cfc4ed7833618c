"""The golden images: devices the original wrote, and what it says of them."""

import json
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

import zstandard

from tests.shared import shared

_IMAGE: Final = ".img.zst"
_GOLDEN: Final = shared("golden")

IMAGE_NAMES: Final = sorted(path.name.removesuffix(_IMAGE) for path in _GOLDEN.glob(f"*{_IMAGE}"))
"""The names of all images, in alphabetical order."""


@lru_cache(maxsize=32)
def load_image(name: str) -> bytes:
    """Return the whole device; as many are kept as are cheaper kept than unpacked again."""
    return _unpack(_GOLDEN / f"{name}{_IMAGE}")


@cache
def manifest(name: str) -> dict[str, Any]:
    """Return how the image was made and what the original sees in it."""
    found: dict[str, Any] = json.loads((_GOLDEN / f"{name}.json").read_bytes())
    return found


def golden_dump(name: str) -> bytes:
    """Return what the original's dump prints for the image."""
    plain = _GOLDEN / f"{name}.dump.txt"
    return plain.read_bytes() if plain.exists() else _unpack(Path(f"{plain}.zst"))


def _unpack(path: Path) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(path.read_bytes()) as reader:
        return reader.read()
