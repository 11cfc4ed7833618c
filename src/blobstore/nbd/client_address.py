"""Addresses of NBD exports, as the NBD project's URI specification (doc/uri.md) writes them.

    nbd://HOST[:PORT]/EXPORT            nbds://HOST[:PORT]/EXPORT
    nbd+unix:///EXPORT?socket=PATH      nbds+unix:///EXPORT?socket=PATH

`nbds` is encrypted, `nbd` is not: never as the server likes it.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from blobstore.errors import InvalidArgumentError

SCHEMES: Final = frozenset({"nbd", "nbds", "nbd+unix", "nbds+unix"})
DEFAULT_PORT: Final = 10809
DEFAULT_TIMEOUT_S: Final = 60.0

_EXPORT_NAME_MAX: Final = 4096
_ALWAYS: Final = frozenset({"timeout"})
_OF_SOCKET: Final = frozenset({"socket"})
_OF_TLS: Final = frozenset({"tls-certificates", "tls-hostname"})


@dataclass(frozen=True, slots=True)
class NbdAddress:
    """Where an export is, and how to get there.

    `socket_path` is empty for TCP. `certificates` is a directory with ca-cert.pem, and
    client-cert.pem and client-key.pem if the server asks who the client is; empty for the
    system's own list of authorities. `tls_name` is the name that the server's certificate must
    have. `timeout_s` is how long a request may wait without any byte from the server.
    """

    text: str
    export: str
    host: str
    port: int
    socket_path: str
    encrypts: bool
    certificates: str
    tls_name: str
    timeout_s: float

    @classmethod
    def parse(cls, text: str) -> "NbdAddress":
        """Take an address apart.

        Raises:
            InvalidArgumentError: It is malformed, or has a parameter that is not known.
        """
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise InvalidArgumentError(f"{text}: {error}") from error
        given = _parameters(text, parts)
        is_unix = parts.scheme.endswith("+unix")
        _check_place(text, parts, is_unix=is_unix, has_socket=bool(given.get("socket")))
        export = unquote(parts.path.removeprefix("/"))
        if len(export.encode()) > _EXPORT_NAME_MAX:
            raise InvalidArgumentError(f"{text[:64]}...: the export's name is too long")
        host = parts.hostname or ""
        return cls(
            text,
            export,
            host,
            DEFAULT_PORT if port is None else port,
            given.get("socket", ""),
            parts.scheme.startswith("nbds"),
            given.get("tls-certificates", ""),
            given.get("tls-hostname", host or "localhost"),
            _timeout(text, given.get("timeout")),
        )


def _parameters(text: str, parts: SplitResult) -> dict[str, str]:
    """Return the parameters; one that is not known could have meant safety."""
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise InvalidArgumentError(f"{text}: parameters {parts.query!r}: {error}") from error
    given = dict(pairs)
    known = _ALWAYS
    known |= _OF_SOCKET if parts.scheme.endswith("+unix") else frozenset()
    known |= _OF_TLS if parts.scheme.startswith("nbds") else frozenset()
    for name in given:
        if name not in known:
            raise InvalidArgumentError(
                f"{text}: parameter {name!r}: expected one of {', '.join(sorted(known))}"
            )
    if len(given) != len(pairs):
        raise InvalidArgumentError(f"{text}: a parameter is given twice")
    return given


def _check_place(text: str, parts: SplitResult, *, is_unix: bool, has_socket: bool) -> None:
    if parts.fragment or parts.username is not None or parts.password is not None:
        raise InvalidArgumentError(f"{text}: a user or a fragment, expected none")
    if is_unix and (parts.netloc or not has_socket):
        raise InvalidArgumentError(f"{text}: expected {parts.scheme}:///EXPORT?socket=PATH")
    if not is_unix and not parts.hostname:
        raise InvalidArgumentError(f"{text}: expected {parts.scheme}://HOST[:PORT]/EXPORT")


def _timeout(text: str, given: str | None) -> float:
    if given is None:
        return DEFAULT_TIMEOUT_S
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= 86400:
        raise InvalidArgumentError(f"{text}: timeout {given!r}: expected 1 to 86400 seconds")
    return float(given)
