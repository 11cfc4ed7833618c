"""JSON values that follow each other on a stream, without I/O.

Requests arrive without framing: one JSON value after the other, with or without
white space between them. So the end of a value is only known by parsing it. The
parser below takes bytes as they arrive and keeps its place between two receives;
it tells *incomplete* (wait for more) from *invalid* (the connection is useless).

Python's own `json` cannot do this: it has no state between two calls, forgets a
member that is repeated, and loses how a number was written (an id `1.0` must come
back as `1.0`). Limits are checked as bytes arrive, so a peer can neither make the
parser keep much nor nest deeply.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

MAX_VALUE_BYTES: Final = 256 * 1024
"""The longest request."""
MAX_TOKENS: Final = 8192
"""The most tokens of a request: each value and each name is one, an object or array two."""
MAX_DEPTH: Final = 64
"""How deep objects and arrays can be nested."""


class InvalidJsonError(Exception):
    """The bytes cannot become a JSON value within the limits, whatever follows."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number, as it was written."""

    text: str


@dataclass(slots=True)
class Members:
    """An object: its members in order, repeated ones included."""

    pairs: "list[tuple[str, Json]]" = field(default_factory=list)


Json: TypeAlias = "Members | list[Json] | str | Number | bool | None"

_SPACE: Final = re.compile(rb"[ \t\n\r]*")
_TOKEN: Final = re.compile(
    rb"""[ \t\n\r]*(
        [{}\[\],:]
        | "[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*"
        | true | false | null
        | -?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?(?=[^-+.0-9eE])
    )""",
    re.DOTALL | re.VERBOSE,
)
"""A token that is whole whatever follows."""
_STRING_START: Final = re.compile(rb'"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*\\?\Z', re.DOTALL)
_NUMBER: Final = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_QUOTE: Final = b'"'[0]
_LITERALS: Final[dict[bytes, bool | None]] = {b"true": True, b"false": False, b"null": None}

# What can come next, seen from the innermost open object or array.
_VALUE: Final = "a value"
_FIRST_VALUE: Final = "a value or ]"
_FIRST_NAME: Final = "a name or }"
_NAME: Final = "a name"
_COLON: Final = "a colon"
_AFTER_VALUE: Final = "a comma or the end"


class JsonStream:
    """Splits a stream of bytes into JSON values."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._place = 0
        self._begin()

    def _begin(self) -> None:
        self._open: list[Members | list[Json]] = []
        self._names: list[str] = []
        self._expected = _VALUE
        self._token_count = 0

    @property
    def is_between_values(self) -> bool:
        """Tell whether no value has begun that has not ended."""
        return not self._open and not self._buffer[self._place :].strip()

    def feed(self, data: bytes) -> Iterator[Json]:
        """Take bytes, and yield each value that they complete.

        Raises:
            InvalidJsonError: What arrived is no JSON, or goes beyond a limit.
        """
        self._buffer += data
        while (token := self._next_token()) is not None:
            complete = self._take(token)
            if complete is not None:
                del self._buffer[: self._place]
                self._place = 0
                self._begin()
                yield complete[0]
        if len(self._buffer) >= MAX_VALUE_BYTES:
            raise InvalidJsonError(f"a request of more than {MAX_VALUE_BYTES} bytes")

    # Tokens

    def _next_token(self) -> bytes | None:
        """Return the next whole token, or None when more bytes are needed."""
        found = _TOKEN.match(self._buffer, self._place)
        if found is None:
            return self._token_at_the_end()
        self._place = found.end()
        return found[1]

    def _token_at_the_end(self) -> bytes | None:
        """Return a number that nothing follows yet; None for a token that can still become whole.

        Raises:
            InvalidJsonError: What is left cannot become a token.
        """
        space = _SPACE.match(self._buffer, self._place)
        rest = bytes(self._buffer[self._place if space is None else space.end() :])
        if any(literal.startswith(rest) for literal in _LITERALS):
            return None  # also where nothing is left
        if rest.startswith(b'"'):
            if _STRING_START.match(rest) is None:
                raise InvalidJsonError("a control character in a string")
            return None
        if rest[0] not in b"-0123456789":
            raise InvalidJsonError(f"an unexpected byte {rest[0]:#04x}")
        if self._open and not rest.strip(b"-+.0123456789eE"):
            return None  # the next byte can be another digit
        if _NUMBER.fullmatch(rest) is None:
            raise InvalidJsonError("a number that is none")
        self._place = len(self._buffer)
        return rest

    # Grammar

    def _take(self, token: bytes) -> tuple[Json] | None:
        """Take the next token; return the value, in a tuple, when it ends with this token."""
        expected = self._expected
        if token == b":" and expected == _COLON:
            self._expected = _VALUE
        elif token == b"," and expected == _AFTER_VALUE:
            self._expected = _NAME if isinstance(self._open[-1], Members) else _VALUE
        elif token in (b"}", b"]"):
            return self._close(token)
        elif token[0] == _QUOTE and expected in (_NAME, _FIRST_NAME):
            self._count(1)
            self._names.append(_text_of(token))
            self._expected = _COLON
        elif token not in (b",", b":") and expected in (_VALUE, _FIRST_VALUE):
            return self._begin_value(token)
        else:
            raise InvalidJsonError(f"expected {expected}, found {token[:20].decode('latin-1')}")
        return None

    def _begin_value(self, token: bytes) -> tuple[Json] | None:
        if token in (b"{", b"["):
            self._count(2)
            if len(self._open) == MAX_DEPTH:
                raise InvalidJsonError(f"more than {MAX_DEPTH} levels")
            self._open.append(Members() if token == b"{" else [])
            self._expected = _FIRST_NAME if token == b"{" else _FIRST_VALUE
            return None
        self._count(1)
        return self._end_value(_scalar_of(token))

    def _close(self, token: bytes) -> tuple[Json] | None:
        wanted = Members if token == b"}" else list
        ends = (_AFTER_VALUE, _FIRST_NAME if token == b"}" else _FIRST_VALUE)
        if not self._open or not isinstance(self._open[-1], wanted) or self._expected not in ends:
            raise InvalidJsonError(f"expected {self._expected}, found {token.decode()}")
        return self._end_value(self._open.pop())

    def _end_value(self, value: Json) -> tuple[Json] | None:
        if not self._open:
            return (value,)
        around = self._open[-1]
        if isinstance(around, Members):
            around.pairs.append((self._names.pop(), value))
        else:
            around.append(value)
        self._expected = _AFTER_VALUE
        return None

    def _count(self, tokens: int) -> None:
        self._token_count += tokens
        if self._token_count > MAX_TOKENS:
            raise InvalidJsonError(f"more than {MAX_TOKENS} tokens")


def _scalar_of(token: bytes) -> Json:
    if token[0] == _QUOTE:
        return _text_of(token)
    if token in _LITERALS:
        return _LITERALS[token]
    return Number(token.decode())


def _text_of(token: bytes) -> str:
    try:
        if b"\\" not in token:
            return token[1:-1].decode()
        text = json.loads(token)
        text.encode()  # a lone surrogate is no text
    except ValueError as error:
        raise InvalidJsonError(f"a string that is none: {error}") from error
    return str(text)


_SHORT: Final = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPED: Final = re.compile(r'[^\x20-\x7e]|["\\]')


def encode_string(text: str) -> str:
    """Return a string as the original writes it: pure ASCII, with upper case digits in escapes."""
    return '"' + _ESCAPED.sub(_escape, text) + '"'


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if character in '"\\':
        return "\\" + character
    short = _SHORT.get(character)
    if short is not None:
        return short
    units = character.encode("utf-16-be", "surrogatepass").hex().upper()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def encode(value: object) -> str:
    """Return JSON without spaces, as the original writes it.

    Takes dicts, lists, tuples, strings, integers, booleans and None.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    if "\\u" in text or "\x7f" in text:
        return _encode_carefully(value)
    return text


def _encode_carefully(value: object) -> str:
    if isinstance(value, str):
        return encode_string(value)
    if isinstance(value, dict):
        members = (f"{encode_string(str(k))}:{_encode_carefully(v)}" for k, v in value.items())
        return "{" + ",".join(members) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_encode_carefully(part) for part in value) + "]"
    return json.dumps(value)
