"""Addresses of Ceph images, and a machine without Ceph."""

import sys
from pathlib import Path

import pytest

from blobstore.device import rbd_cluster
from blobstore.device.address import open_device
from blobstore.device.rbd_cluster import RbdAddress
from blobstore.errors import InvalidArgumentError, UnsupportedError


def test_an_address_names_a_pool_and_an_image() -> None:
    assert RbdAddress.parse("rbd:vms/store") == RbdAddress("vms", "store")


def test_an_address_may_name_a_namespace_a_configuration_and_a_user() -> None:
    found = RbdAddress.parse("rbd:vms/team%20a/store?conf=/etc/ceph/b.conf&id=backup")
    assert found == RbdAddress("vms", "store", "team a", "/etc/ceph/b.conf", "backup")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("rbd:store", "POOL/IMAGE", id="no pool"),
        pytest.param("rbd:", "POOL/IMAGE", id="nothing"),
        pytest.param("rbd:vms/", "POOL/IMAGE", id="no image"),
        pytest.param("rbd:a/b/c/d", "POOL/IMAGE", id="too many names"),
        pytest.param("rbd:vms/store@monday", "POOL/IMAGE", id="a snapshot of Ceph's"),
        pytest.param("rbd:vms/store?user=me", "parameter 'user'", id="not a parameter"),
        pytest.param("rbd:vms/store?conf", "parameters 'conf'", id="a parameter without value"),
    ],
)
def test_a_malformed_address_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        open_device(text, read_only=True)


def test_a_machine_without_cephs_modules_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "rados", None)  # as Python marks what cannot be imported
    monkeypatch.setattr(rbd_cluster, "_SYSTEM_PACKAGES", str(tmp_path))
    with pytest.raises(UnsupportedError, match=r"'rados' is not installed.*python3-rbd"):
        open_device("rbd:vms/store", read_only=True)


def test_cephs_modules_that_do_not_load_are_an_error_that_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "rados.py").write_text("raise ImportError('librados.so.2 is missing')\n")
    monkeypatch.setitem(sys.modules, "rados", None)
    monkeypatch.setattr(rbd_cluster, "_SYSTEM_PACKAGES", str(tmp_path))
    with pytest.raises(UnsupportedError, match=r"does not load: librados\.so\.2 is missing"):
        open_device("rbd:vms/store", read_only=True)
