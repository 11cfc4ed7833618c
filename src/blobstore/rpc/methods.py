"""The table of methods: what each takes, when it may be called, and how it fails to decode."""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from blobstore.rpc.failures import undecodable
from blobstore.rpc.json_stream import Json, Members
from blobstore.rpc.parameters import ParametersError, decode_parameters
from blobstore.rpc.protocol import INVALID_PARAMS, METHOD_NOT_FOUND, RpcError
from blobstore.rpc.target import Target

STARTUP: Final = "startup"
RUNTIME: Final = "runtime"
BOTH: Final = "both"

_TOO_EARLY: Final = (
    "Method may only be called after framework is initialized using framework_start_init RPC."
)
_TOO_LATE: Final = (
    "Method may only be called before framework is initialized. Use --wait-for-rpc command line "
    "parameter and then issue this RPC before the framework_start_init RPC."
)

Handler = Callable[[Target, Any], object]
H = TypeVar("H", bound=Handler)


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    `parameters` is the struct that its parameters decode to, or None for a method that takes none;
    its handler then gets None. `optional` parameters can be absent, and the handler gets None: that
    is not the same as an empty object. A method without parameters ignores optional ones.
    `decode_error` is what other parameters are answered with.
    """

    handler: Handler
    parameters: type | None
    states: str
    optional: bool
    decode_error: RpcError


METHODS: Final[dict[str, Method]] = {}


def method(
    name: str,
    parameters: type | None = None,
    *,
    states: str = RUNTIME,
    optional: bool = False,
    decode_error: RpcError | None = None,
) -> Callable[[H], H]:
    """Enter a function into the table under the name of a method."""

    def enter(handler: H) -> H:
        error = decode_error or undecodable()
        METHODS[name] = Method(handler, parameters, states, optional, error)
        return handler

    return enter


def no_parameters(message: str) -> RpcError:
    """Return the error of a method that takes no parameters and got some."""
    return RpcError(INVALID_PARAMS, message)


def call(target: Target, name: str, params: Members | list[Json] | None) -> object:
    """Call a method, and return its result.

    Raises:
        RpcError: What the call is answered with instead.
    """
    found = METHODS.get(name)
    if found is None:
        raise RpcError(METHOD_NOT_FOUND, "Method not found")
    if found.states == RUNTIME and not target.is_initialized:
        raise RpcError(-errno.EPERM, _TOO_EARLY)
    if found.states == STARTUP and target.is_initialized:
        raise RpcError(-errno.EPERM, _TOO_LATE)
    if found.parameters is None:
        if params is not None and not found.optional:
            raise found.decode_error
        return found.handler(target, None)
    if params is None and found.optional:
        return found.handler(target, None)
    try:
        decoded: object = decode_parameters(found.parameters, params)
    except ParametersError as error:
        raise found.decode_error from error
    return found.handler(target, decoded)
