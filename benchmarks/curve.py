"""What was measured over several sizes: a plot and a table are made of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Axis:
    """What the numbers along it are, and whether equal steps are equal factors."""

    label: str
    is_log: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """One line; a reference is there to compare with."""

    name: str
    values: tuple[float, ...]
    is_reference: bool = False


@dataclass(frozen=True, slots=True)
class Curve:
    """Several lines over the same sizes; `says` is what they show, `name` the file's."""

    name: str
    title: str
    says: str
    x: Axis
    y: Axis
    sizes: tuple[float, ...]
    series: tuple[Series, ...]

    def __post_init__(self) -> None:
        if any(len(line.values) != len(self.sizes) for line in self.series):
            raise ValueError(f"{self.name}: not one value for each size")


def transposed(points: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Return one tuple for each line, of measurements made size by size."""
    return list(zip(*points, strict=True))
