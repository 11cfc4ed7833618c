"""The package's public names, which are imported when they are first used."""

import ast
import importlib.metadata
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

import blobstore
from blobstore import errors
from tests.public_api import properties_of, public_callables, public_classes


def names_for_type_checkers() -> set[str]:
    tree = ast.parse(Path(blobstore.__file__).read_text(encoding="utf-8"))
    (block,) = [
        node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)
    ]
    return {
        alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_see_the_names_that_the_package_lists() -> None:
    assert names_for_type_checkers() == set(blobstore.__all__)


@pytest.mark.parametrize("name", blobstore.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(blobstore, name).__name__ == name or name == "BlobId"
    assert name in dir(blobstore)


def test_a_name_that_is_not_public_is_an_error() -> None:
    name = "Nothing"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        getattr(blobstore, name)


def test_every_error_is_public() -> None:
    found = vars(errors).values()
    kinds = [kind for kind in found if isinstance(kind, type) and issubclass(kind, OSError)]
    assert {kind.__name__ for kind in kinds} <= set(blobstore.__all__)


CALLABLES = list(public_callables())
WITHOUT_ERRORS = {
    "Blob.detach",
    "AsyncBlob.detach",
    "Device.hold_blocks",
    "Device.try_hold_blocks",
    *(f"{kind}Device.ring_descriptor" for kind in ("", "Block", "File")),
    "BlobInfo.of_unopened",
    "Rescue.close",
    *(f"BlobFile.{name}" for name in ("readable", "writable", "seekable", "readall")),
}


@pytest.mark.parametrize("name", [name for name, _function in CALLABLES])
def test_every_public_function_says_what_it_does_and_what_it_raises(name: str) -> None:
    text = documentation_of(name)
    assert text.strip().partition("\n")[0].rstrip().endswith((".", ":"))
    is_of_an_error = name.split(".")[0].endswith("Error")
    assert "Raises:" in text or is_of_an_error or name in WITHOUT_ERRORS


def documentation_of(name: str) -> str:
    kind, _dot, member = name.partition(".")
    value = getattr(blobstore, kind)
    return inspect.getdoc(getattr(value, member) if member else value) or ""


@pytest.mark.parametrize(("name", "function"), CALLABLES, ids=[name for name, _ in CALLABLES])
def test_every_parameter_of_a_public_function_and_what_it_returns_have_a_type(
    name: str, function: Callable[..., object]
) -> None:
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        is_bound = parameter.name in ("self", "cls")
        assert is_bound or parameter.annotation is not inspect.Parameter.empty


@pytest.mark.parametrize("kind", public_classes(), ids=lambda kind: kind.__name__)
def test_every_public_class_and_property_has_a_docstring(kind: type) -> None:
    assert kind.__doc__
    assert [name for name, found in properties_of(kind) if not found.__doc__] == []


def test_the_version_is_the_installed_packages() -> None:
    assert blobstore.__version__ == importlib.metadata.version("blobstore")
