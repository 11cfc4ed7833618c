"""The package's public names, which are imported when they are first used."""

import ast
import importlib.metadata
from pathlib import Path

import pytest

import blobstore


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


def test_the_version_is_the_installed_packages() -> None:
    assert blobstore.__version__ == importlib.metadata.version("blobstore")
