"""Every test asserts something, itself or in a helper that it calls."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import blobstore
from tests.shared import CHECKOUT

PACKAGE: Final = Path(blobstore.__file__).parent
TESTING: Final = PACKAGE / "testing"
ASSERTING_CALLS: Final = {"raises", "warns", "fail"}
DEFINED: Final = re.compile(r"^ *def ([a-z]\w*)", re.MULTILINE)


@dataclass(frozen=True)
class Function:
    """What a function does, as far as it matters here; what is nested in it counts as its own."""

    name: str
    calls: frozenset[str]
    has_assert: bool
    has_raise: bool

    @classmethod
    def of(cls, node: ast.FunctionDef) -> "Function":
        inside = list(ast.walk(node))
        called = [each.func for each in inside if isinstance(each, ast.Call)]
        named = {call.id for call in called if isinstance(call, ast.Name)}
        return cls(
            node.name,
            frozenset(named | {call.attr for call in called if isinstance(call, ast.Attribute)}),
            any(isinstance(each, ast.Assert) for each in inside),
            any(isinstance(each, ast.Raise) for each in inside),
        )


@cache
def functions_of(path: Path) -> list[Function]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [Function.of(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def functions_in(*directories: Path) -> Iterator[tuple[Path, Function]]:
    for directory in directories:
        for path in sorted(directory.rglob("*.py")):
            for function in functions_of(path):
                yield path, function


def asserts_itself(function: Function) -> bool:
    return function.has_assert or bool(function.calls & ASSERTING_CALLS)


def refuses(function: Function) -> bool:
    """Say whether a helper asserts, or raises where something is wrong."""
    return asserts_itself(function) or function.has_raise


def asserts_near(function: Function, path: Path) -> bool:
    """Say whether it asserts, or calls a function of the same file that does."""
    return asserts_itself(function) or bool(function.calls & refusing_in(path))


@cache
def refusing_in(path: Path) -> set[str]:
    return {function.name for function in functions_of(path) if refuses(function)}


def public_names_of_package() -> set[str]:
    return {
        name
        for path in PACKAGE.rglob("*.py")
        if not path.is_relative_to(TESTING)
        for name in DEFINED.findall(path.read_text(encoding="utf-8"))
    }


@cache
def asserting_helpers() -> set[str]:
    """Return names of helpers that assert; a public name of the package does not count."""
    of_package = public_names_of_package()
    helpers = defaultdict(list)
    for _path, function in functions_in(CHECKOUT / "tests", TESTING):
        if function.name not in of_package:
            helpers[function.name].append(function)
    found = {name for name, those in helpers.items() if any(map(refuses, those))}
    while True:
        more = {name for name, those in helpers.items() if any(f.calls & found for f in those)}
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
        and not function.calls & helpers
    ]
    assert not silent


def test_a_test_without_an_assertion_is_seen() -> None:
    (silent,) = ast.parse("def test_x():\n    store.close()").body
    (loud,) = ast.parse("def test_x():\n    assert store.close() is None").body
    assert isinstance(silent, ast.FunctionDef)
    assert isinstance(loud, ast.FunctionDef)
    assert not asserts_itself(Function.of(silent))
    assert asserts_itself(Function.of(loud))
    assert "close" not in asserting_helpers()
