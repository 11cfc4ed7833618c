"""Matrices of parameters, of which the suite tries a part and `make matrices` every cell.

In a matrix of many values and a few others (two layouts, say) most cells run the same code. The
suite gives every value one of the others, and every one of the others its share of the values.
"""

from collections.abc import Container, Mapping

import pytest

OPTION = "--every-cell"

_state = {"is_full": False}


def set_full(is_full: bool) -> None:
    _state["is_full"] = is_full


def is_full() -> bool:
    """Tell whether every cell is wanted."""
    return _state["is_full"]


def in_turn(
    names: tuple[str, str],
    values: Mapping[str, object],
    others: Mapping[str, object],
    *,
    first: int = 0,
    whole: Container[str] = (),
) -> pytest.MarkDecorator:
    """Parametrize two names: each value gets one of the others in turn, from the `first` on.

    The mappings' keys are the parts of a test's id. Values of the `whole` ids get all others.
    """
    cells = [
        pytest.param(value, other, id=f"{value_id}-{other_id}")
        for at, (value_id, value) in enumerate(values.items())
        for turn, (other_id, other) in enumerate(others.items())
        if is_full() or value_id in whole or (at + first - turn) % len(others) == 0
    ]
    return pytest.mark.parametrize(names, cells)
