"""Every test asserts something, itself or in a helper that it calls."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import blobstore
from tests.shared import CHECKOUT

PACKAGE: Final = Path(blobstore.__file__).parent
TESTING: Final = PACKAGE / "testing"
ASSERTING_CALLS: Final = {"raises", "warns", "fail"}


@cache
def functions_of(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def functions_in(*directories: Path) -> Iterator[tuple[Path, ast.FunctionDef]]:
    for directory in directories:
        for path in sorted(directory.rglob("*.py")):
            for function in functions_of(path):
                yield path, function


@cache
def called_in(function: ast.FunctionDef) -> set[str]:
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    named = {call.id for call in calls if isinstance(call, ast.Name)}
    return named | {call.attr for call in calls if isinstance(call, ast.Attribute)}


def asserts_itself(function: ast.FunctionDef) -> bool:
    nodes = list(ast.walk(function))
    return any(isinstance(node, ast.Assert) for node in nodes) or bool(
        called_in(function) & ASSERTING_CALLS
    )


def refuses(function: ast.FunctionDef) -> bool:
    """Say whether a helper asserts, or raises where something is wrong."""
    return asserts_itself(function) or any(isinstance(n, ast.Raise) for n in ast.walk(function))


def asserts_near(function: ast.FunctionDef, path: Path) -> bool:
    """Say whether it asserts, or calls a function of the same file that does."""
    return asserts_itself(function) or bool(called_in(function) & refusing_in(path))


@cache
def refusing_in(path: Path) -> set[str]:
    return {function.name for function in functions_of(path) if refuses(function)}


@cache
def asserting_helpers() -> set[str]:
    """Return names of helpers that assert; a public name of the package does not count."""
    of_package = {
        function.name
        for path, function in functions_in(PACKAGE)
        if not path.is_relative_to(TESTING) and not function.name.startswith("_")
    }
    helpers = defaultdict(list)
    for _path, function in functions_in(CHECKOUT / "tests", TESTING):
        if function.name not in of_package:
            helpers[function.name].append(function)
    found = {name for name, those in helpers.items() if any(map(refuses, those))}
    while True:
        more = {name for name, those in helpers.items() if any(called_in(f) & found for f in those)}
        if more <= found:
            return found
        found |= more


def test_every_test_asserts_something() -> None:
    helpers = asserting_helpers()
    silent = [
        f"{path.name}: {function.name}"
        for path, function in functions_in(CHECKOUT / "tests", TESTING)
        if function.name.startswith("test_")
        and not asserts_near(function, path)
        and not called_in(function) & helpers
    ]
    assert not silent


def test_a_test_without_an_assertion_is_seen() -> None:
    (silent,) = ast.parse("def test_x():\n    store.close()").body
    (loud,) = ast.parse("def test_x():\n    assert store.close() is None").body
    assert isinstance(silent, ast.FunctionDef)
    assert isinstance(loud, ast.FunctionDef)
    assert not asserts_itself(silent)
    assert asserts_itself(loud)
    assert "close" not in asserting_helpers()
