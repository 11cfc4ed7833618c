"""Certificates for tests: an authority, a server called localhost, and a client."""

import subprocess
from pathlib import Path

from tests.nbd.servers import needed

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def make_certificates(directory: Path) -> None:
    """Write files with the names that nbdkit, qemu and this client look for."""
    _openssl(
        directory, "req", "-x509", *_KEY, "-keyout", "ca-key.pem", "-out", "ca-cert.pem",
        "-days", "2", "-subj", "/CN=authority", "-addext", "keyUsage=critical,keyCertSign",
    )  # fmt: skip
    for name, host in (("server", "localhost"), ("client", "client")):
        (directory / "names").write_text(f"subjectAltName=DNS:{host}\n")
        _openssl(
            directory, "req", *_KEY, "-keyout", f"{name}-key.pem", "-out", f"{name}.csr",
            "-subj", f"/CN={host}",
        )  # fmt: skip
        _openssl(
            directory, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca-cert.pem", "-CAkey",
            "ca-key.pem", "-CAcreateserial", "-out", f"{name}-cert.pem", "-days", "2",
            "-extfile", "names",
        )  # fmt: skip


def _openssl(directory: Path, *arguments: str) -> None:
    command = [needed("openssl"), *arguments]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
