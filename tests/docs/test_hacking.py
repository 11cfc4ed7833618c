"""What HACKING says of the targets and the places in the repository is true."""

import re
from typing import Final

from tests.shared import CHECKOUT

HACKING: Final = (CHECKOUT / "docs" / "HACKING.md").read_text(encoding="utf-8")
MAKEFILE: Final = (CHECKOUT / "Makefile").read_text(encoding="utf-8")


def targets_in(text: str) -> set[str]:
    return set(re.findall(r"`make ([a-z-]+)", text))


def test_every_target_that_has_a_help_line_is_explained() -> None:
    listed = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
    assert listed - targets_in(HACKING) <= {"help", "venv"}


def test_every_target_that_is_named_is_there() -> None:
    assert targets_in(HACKING) <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_every_file_and_directory_that_is_named_is_there() -> None:
    named = re.findall(r"`((?:tests|docs|src|cli|fsck|drivers|device|metadata)/[\w./-]+)`", HACKING)
    named += [f"{word}.py" for word in re.findall(r"`(?:python -m )(tests[\w.]+)", HACKING)]
    assert len(named) > 15
    for name in named:
        path = name.removesuffix(".py").replace(".", "/") if name.startswith("tests.") else name
        places = [CHECKOUT / path, CHECKOUT / "src" / "blobstore" / path]
        assert any(p.exists() or p.with_suffix(".py").exists() for p in places), name


def test_the_proofs_are_programs() -> None:
    for module in set(re.findall(r"python -m (tests\.proof\.[a-z_]+)", MAKEFILE)):
        text = (CHECKOUT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert '__name__ == "__main__"' in text, module
