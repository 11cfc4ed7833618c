"""JSON-RPC 2.0 as the original speaks it: requests and answers as values, without I/O.

A request's id comes back exactly as it was written. A request without an id that
succeeds has no answer; one that fails is answered all the same, with a null id. The
elements of a batch are answered together, in the order in which they end.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

from blobstore.rpc.json_stream import Json, Members, Number, encode, encode_string

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603

_NULL: Final = "null"
_MEMBERS: Final = frozenset({"jsonrpc", "method", "params", "id"})


class RpcError(Exception):
    """An error that a request is answered with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Request:
    """One call. `id_text` is the id as JSON, None if the peer wants no answer to a success.

    `params` is an object or array; None stands for null and for none at all, which mean
    the same.
    """

    method: str
    params: Members | list[Json] | None
    id_text: str | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is none, and its answer."""

    error: RpcError
    id_text: str | None = None


Message: TypeAlias = Request | Refusal


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that arrived together and are answered together."""

    messages: tuple[Message, ...]


def decode_message(value: Json) -> Message | Batch:
    """Tell what a peer's JSON value asks for."""
    if isinstance(value, list) and value:
        return Batch(tuple(_decode_request(part) for part in value))
    return _decode_request(value)


def _decode_request(value: Json) -> Message:
    if not isinstance(value, Members):
        return _refused()
    members = dict(value.pairs)
    if len(members) != len(value.pairs) or not members.keys() <= _MEMBERS:
        return _refused()
    method, params = members.get("method"), members.get("params")
    if not isinstance(method, str) or members.get("jsonrpc", "2.0") != "2.0":
        return _refused()
    identifier = members.get("id")
    if isinstance(identifier, (Members, list, bool)):
        return _refused()
    id_text = _id_text(identifier)
    if params is not None and not isinstance(params, (Members, list)):
        return _refused(id_text)
    return Request(method, params, id_text)


def _id_text(identifier: str | Number | None) -> str | None:
    if identifier is None:
        return None
    return identifier.text if isinstance(identifier, Number) else encode_string(identifier)


def _refused(id_text: str | None = None) -> Refusal:
    return Refusal(RpcError(INVALID_REQUEST, "Invalid request"), id_text)


def encode_result(id_text: str | None, result: object) -> str | None:
    """Return the answer to a call that succeeded; None if the peer wants none."""
    if id_text is None:
        return None
    return f'{{"jsonrpc":"2.0","id":{id_text},"result":{encode(result)}}}'


def encode_error(id_text: str | None, error: RpcError) -> str:
    """Return the answer to a call that failed."""
    detail = f'{{"code":{error.code},"message":{encode_string(error.message)}}}'
    return f'{{"jsonrpc":"2.0","id":{id_text or _NULL},"error":{detail}}}'


class BatchAnswers:
    """Collects the answers to a batch until the last request has ended."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._answers: list[str] = []

    def add(self, answer: str | None) -> str | None:
        """Note one more end; return what to send once that was the last, if there is anything."""
        self._missing -= 1
        if answer is not None:
            self._answers.append(answer)
        if self._missing or not self._answers:
            return None
        return "[" + ",".join(self._answers) + "]"
