"""TLS of the server: certificates of both sides, from a directory as QEMU and libnbd lay it out."""

import errno
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from blobstore import InvalidArgumentError, PathNotFoundError

AUTHORITY: Final = "ca-cert.pem"
CERTIFICATE: Final = "server-cert.pem"
KEY: Final = "server-key.pem"
REVOKED: Final = "ca-crl.pem"


def server_context(directory: str | os.PathLike[str]) -> ssl.SSLContext:
    """Return what a server encrypts with: TLS 1.2 or newer, and no client without a certificate.

    The directory has the authority's certificate, the server's certificate and its key; and, if
    there is one, the authority's list of revoked certificates.

    Raises:
        PathNotFoundError: A file is missing.
        InvalidArgumentError: A file is not what it should be.
    """
    place = Path(directory)
    for name in (AUTHORITY, CERTIFICATE, KEY):
        if not (place / name).is_file():
            raise PathNotFoundError("no such file").at(store=str(place / name))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    with _naming(place, f"{CERTIFICATE} with {KEY}"):
        context.load_cert_chain(place / CERTIFICATE, place / KEY, password=_refuse_password)
    with _naming(place, AUTHORITY):
        context.load_verify_locations(place / AUTHORITY)
    if (place / REVOKED).exists():
        with _naming(place, REVOKED):
            context.load_verify_locations(place / REVOKED)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


@contextmanager
def _naming(place: Path, files: str) -> Iterator[None]:
    """Say which files of the directory cannot be used, and why.

    Raises:
        InvalidArgumentError: What is inside the `with` failed.
    """
    try:
        yield
    except OSError as error:
        why = _why(error) if isinstance(error, ssl.SSLError) else error.strerror
        raise InvalidArgumentError(f"{place}: {files} cannot be used for TLS: {why}") from error


def _why(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason; it has none for text without a certificate or a key."""
    return error.reason.lower().replace("_", " ") if error.reason else "not PEM"


def _refuse_password() -> str:
    """Answer where OpenSSL would ask on the terminal, and a service would wait for ever."""
    raise OSError(errno.EINVAL, "the key has a password, expected none")
