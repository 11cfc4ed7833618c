"""TLS of the server: certificates of both sides, from a directory as QEMU and libnbd lay it out."""

import os
import ssl
from pathlib import Path
from typing import Final

from blobstore import InvalidArgumentError

AUTHORITY: Final = "ca-cert.pem"
CERTIFICATE: Final = "server-cert.pem"
KEY: Final = "server-key.pem"
REVOKED: Final = "ca-crl.pem"


def server_context(directory: str | os.PathLike[str]) -> ssl.SSLContext:
    """Return what a server encrypts with: TLS 1.2 or newer, and no client without a certificate.

    The directory has the authority's certificate, the server's certificate and its key; and, if
    there is one, the authority's list of revoked certificates.

    Raises:
        InvalidArgumentError: A file is missing, or is not what it should be.
    """
    place = Path(directory)
    for name in (AUTHORITY, CERTIFICATE, KEY):
        if not (place / name).is_file():
            raise InvalidArgumentError(f"{place / name}: no such file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(place / CERTIFICATE, place / KEY)
        context.load_verify_locations(place / AUTHORITY)
        if (place / REVOKED).exists():
            context.load_verify_locations(place / REVOKED)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except (ssl.SSLError, OSError) as error:
        raise InvalidArgumentError(f"{place}: cannot be used for TLS: {error}") from error
    return context
