"""Certificates for tests: an authority, a server and a client of it, and a stranger's."""

import subprocess
from pathlib import Path
from typing import Final

from tests.nbd.servers import needed

_CONFIGURATION: Final = """
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = clientAuth
"""


def make_certificates(directory: Path) -> Path:
    """Make a directory with `ca-cert.pem`, and `server-...` and `client-...` of both kinds."""
    directory.mkdir(exist_ok=True)
    (directory / "openssl.cnf").write_text(_CONFIGURATION)
    _openssl(directory, "req -x509 -extensions authority -keyout ca-key.pem -out ca-cert.pem "
             "-subj /CN=authority", *_KEY)  # fmt: skip
    for kind in ("server", "client"):
        signed = "-CA ca-cert.pem -CAkey ca-key.pem"
        _openssl(
            directory,
            f"req -x509 -extensions {kind} -keyout {kind}-key.pem -out {kind}-cert.pem "
            f"-subj /CN={kind} {signed}",
            *_KEY,
        )
    return directory


_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "9")


def _openssl(directory: Path, words: str, *more: str) -> None:
    command = [needed("openssl"), *words.split(), *more, "-config", "openssl.cnf"]
    subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=60)
