"""Ceph's libraries, clusters and images: how they are found, reached and named.

Ceph's Python modules `rados` and `rbd` are not on PyPI. They come with the system (Debian's
python3-rbd), for the system's Python. A virtual environment does not see them there, so that place
is looked at as well. They load where the version of Python is the same.

Errors of Ceph become those of this package here, with its reason and errno.
"""

import errno
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from blobstore.errors import (
    AccessError,
    BlobstoreError,
    BusyError,
    DeviceError,
    DeviceFullError,
    InvalidArgumentError,
    PathNotFoundError,
    ReadOnlyError,
    UnsupportedError,
)

SCHEME: Final = "rbd:"

_SYSTEM_PACKAGES: Final = "/usr/lib/python3/dist-packages"
_CONNECT_TIMEOUT_S: Final = 30
_PARAMETERS: Final = frozenset({"conf", "id"})

_FAILURES: Final[dict[int, type[BlobstoreError]]] = {
    errno.ENOENT: PathNotFoundError,
    errno.EACCES: AccessError,
    errno.EPERM: AccessError,
    errno.EBUSY: BusyError,
    errno.EROFS: ReadOnlyError,
    errno.ENOSPC: DeviceFullError,
    errno.EDQUOT: DeviceFullError,
}
_REASONS: Final = {
    errno.ESHUTDOWN: "another client has taken the lock, and this one is shut out",
}


@dataclass(frozen=True, slots=True)
class RbdAddress:
    """Where an image is.

    `configuration` is the path of a ceph.conf, empty for Ceph's own places, None for no such file.
    `user` is the part of the client's name after ``client.``, empty for ``admin``. `options`
    replace settings of the configuration.
    """

    pool: str
    image: str
    namespace: str = ""
    configuration: str | None = ""
    user: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "RbdAddress":
        """Take ``rbd:POOL/[NAMESPACE/]IMAGE[?conf=PATH&id=NAME]`` apart.

        Raises:
            InvalidArgumentError: It is malformed, or has a parameter that is not known.
        """
        place, _, query = text.removeprefix(SCHEME).partition("?")
        names = [unquote(name) for name in place.split("/")]
        if len(names) not in (2, 3) or not all(names) or any("@" in name for name in names):
            raise InvalidArgumentError(
                f"{text}: expected rbd:POOL/IMAGE or rbd:POOL/NAMESPACE/IMAGE"
            )
        try:
            given = dict(parse_qsl(query, strict_parsing=bool(query)))
        except ValueError as error:
            raise InvalidArgumentError(f"{text}: parameters {query!r}: {error}") from error
        for name in given:
            if name not in _PARAMETERS:
                raise InvalidArgumentError(f"{text}: parameter {name!r}: expected conf or id")
        return cls(
            names[0],
            names[-1],
            names[1] if len(names) == 3 else "",
            given.get("conf", ""),
            given.get("id", ""),
        )


class Cluster:
    """A connection to the cluster and the pool of an address."""

    def __init__(self, address: RbdAddress, name: str) -> None:
        """Connect, and open the pool.

        Raises:
            UnsupportedError: Ceph's Python modules are missing.
            NotFoundError: No such configuration or pool.
            AccessError: The cluster does not let this user in.
            DeviceError: The cluster does not answer.
        """
        self.rbd = ceph_modules()[1]
        self._image_name = address.image
        self._cluster = connect_cluster(address, name)
        try:
            with ceph_failures(name, f"pool {address.pool}"):
                self.pool = self._cluster.open_ioctx(address.pool)
                self.pool.set_namespace(address.namespace)
        except BaseException:
            self._cluster.shutdown()
            raise

    def open_image(self, name: str, *, read_only: bool) -> Any:
        """Open the image that the address names.

        Raises:
            NotFoundError: No such image.
            DeviceError: The cluster failed.
        """
        with ceph_failures(name, f"image {self._image_name}"):
            return self.rbd.Image(self.pool, self._image_name, read_only=read_only)

    def close(self) -> None:
        """Leave the cluster; images are closed before."""
        self.pool.close()
        self._cluster.shutdown()


def connect_cluster(address: RbdAddress, name: str) -> Any:
    """Connect to the cluster of an address; whoever calls this ends it with `shutdown`.

    Raises:
        UnsupportedError: Ceph's Python modules are missing.
        NotFoundError: No such configuration.
        AccessError: The cluster does not let this user in.
        DeviceError: The cluster does not answer.
    """
    rados = ceph_modules()[0]
    options = {"client_mount_timeout": str(_CONNECT_TIMEOUT_S), **address.options}
    with ceph_failures(name, "connect"):
        cluster = rados.Rados(
            conffile=address.configuration, rados_id=address.user or None, conf=options
        )
        try:
            cluster.connect()
        except BaseException:
            cluster.shutdown()
            raise
    return cluster


def has_ceph_modules() -> bool:
    """Tell whether Ceph's Python modules are installed, without loading them."""
    return all(_find(name) is not None for name in ("rados", "rbd"))


def _find(name: str) -> ModuleSpec | None:
    return find_spec(name) or PathFinder.find_spec(name, [_SYSTEM_PACKAGES])


def ceph_modules() -> tuple[Any, Any]:
    """Return the modules `rados` and `rbd`.

    Raises:
        UnsupportedError: They are not installed for this version of Python.
    """
    return _module("rados"), _module("rbd")  # the second one needs the first


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        pass
    spec = PathFinder.find_spec(name, [_SYSTEM_PACKAGES])
    if spec is None or spec.loader is None:
        version = ".".join(map(str, sys.version_info[:2]))
        raise UnsupportedError(
            f"Ceph's Python module {name!r} is not installed for Python {version} "
            "(Debian: apt install python3-rbd)"
        )
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise UnsupportedError(f"Ceph's Python module {name!r} does not load: {error}") from error
    sys.modules[name] = module
    return module


@contextmanager
def ceph_failures(name: str, what: str) -> Iterator[None]:
    """Make errors of Ceph's modules errors of this package.

    Raises:
        BlobstoreError: What Ceph answered, such as a DeviceError.
    """
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        if type(error).__module__ not in ("rados", "rbd") or not isinstance(number, int):
            raise
        number = abs(number) or errno.EIO
        reason = _REASONS.get(number, os.strerror(number))
        kind = _FAILURES.get(number, DeviceError)
        raise kind(f"{name}: {what}: {reason}", errno=number) from error
