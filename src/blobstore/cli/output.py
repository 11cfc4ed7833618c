"""What commands print: JSON with a schema version, or text that no name can disturb.

Names of attributes are any bytes; here they are strings with `surrogateescape`.
"""

import errno
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import click

SCHEMA_VERSION: Final = 1

_LOOKS_ESCAPED: Final = re.compile(r"\\x[0-9a-f]{2}")
_RAW_BYTE: Final = re.compile("[\udc80-\udcff]")
_RAW_BYTE_BASE: Final = 0xDC00


def print_result(fields: Mapping[str, object], text: str, *, as_json: bool) -> None:
    """Print a command's result to standard output, as one JSON object or as text."""
    if as_json:
        print_json(fields)
    elif text:
        click.echo(text)


def print_json(fields: Mapping[str, object]) -> None:
    """Print one object; all that is not ASCII is escaped."""
    click.echo(_encoded(fields))


def _encoded(fields: Mapping[str, object]) -> str:
    import json  # text is printed without it

    return json.dumps({"schema_version": SCHEMA_VERSION, **fields})


def print_error(message: str, number: int, *, as_json: bool) -> None:
    """Print an error to standard error, in one line."""
    if as_json:
        body = error_fields(message, number)
        click.echo(_encoded({"error": body}), err=True)
    else:
        click.echo(printable(message), err=True)


def error_fields(message: str, number: int) -> dict[str, str]:
    """Return an error as JSON shows it."""
    name = errno.errorcode.get(number, str(number))
    return {"errno": name, "message": unicode_text(message)}


def printable(text: str) -> str:
    """Escape what could move the cursor or is no Unicode; backslashes are left as they are."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def printable_name(name: str) -> str:
    """Escape a name so that two different ones never look the same."""
    return printable(name.replace("\\", "\\\\"))


def unicode_text(name: str) -> str:
    r"""Write bytes that are no UTF-8 as ``\xff``, which every reader of JSON accepts.

    Where this happens, or the text holds such an escape already, backslashes
    are doubled: no two texts give the same.
    """
    if _RAW_BYTE.search(name) or _LOOKS_ESCAPED.search(name):
        doubled = name.replace("\\", "\\\\")
        return _RAW_BYTE.sub(lambda match: _escaped(match[0]), doubled)
    return name


def _escaped(char: str) -> str:
    if _RAW_BYTE.match(char):
        return f"\\x{ord(char) - _RAW_BYTE_BASE:02x}"
    return char.encode("unicode_escape").decode("ascii")


def render_fields(fields: Mapping[str, str]) -> str:
    """Lay out names and values in two columns."""
    return render_table([(name, value) for name, value in fields.items()])


def render_table(rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows of as many cells each, two spaces between the columns."""
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
