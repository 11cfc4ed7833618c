"""The fuzzer finds its way, a changed image is an image, and what was found once stays found."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from blobstore.api.blobstore import Blobstore
from blobstore.errors import BlobstoreError
from tests.proof.fuzz import main, write_seeds
from tests.proof.fuzz_target import seeds, try_input
from tests.proof.mutate import LARGEST_INPUT, SmallImage, mutated

CORPUS: Final = Path(__file__).resolve().with_name("fuzz_corpus")
KEPT: Final = sorted(path for path in CORPUS.iterdir() if path.is_file())
REACHED: Final = [path for path in KEPT if path.name.startswith("reached-")]
FUZZ: Final = [sys.executable, "-m", "tests.proof.fuzz"]
MOST_KEPT: Final = 200
MOST_BYTES: Final = 2 << 20
BEGUN_WITH: Final = 5


def test_the_kept_corpus_is_there_and_small() -> None:
    assert 20 <= len(KEPT) <= MOST_KEPT
    assert sum(path.stat().st_size for path in KEPT) < MOST_BYTES


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_a_kept_input_does_no_harm(path: Path) -> None:
    try_input(path.read_bytes())


def test_every_seed_survives_being_packed_and_unpacked() -> None:
    for seed in seeds():
        assert SmallImage.unpack(seed).pack() == seed


def test_most_seeds_are_stores_that_open() -> None:
    opened = 0
    begin = seeds()
    for seed in begin:
        try:
            device = SmallImage.unpack(seed).device(read_only=True)
            Blobstore.open(device, read_only=True).close()
            opened += 1
        except BlobstoreError:
            pass
    assert opened > 0.9 * len(begin)


def test_any_bytes_are_an_input() -> None:
    rng = random.Random(1)
    for length in (0, 1, 2, 5, 6, 7, 100, 5000):
        image = SmallImage.unpack(rng.randbytes(length))
        assert SmallImage.unpack(image.pack()) == image


def test_a_change_depends_on_its_seed_alone_and_leaves_most_checksums_right() -> None:
    begin = seeds()[0]
    right = 0
    for seed in range(100):
        changed = mutated(begin, seed)
        assert changed == mutated(begin, seed)
        assert len(changed) <= LARGEST_INPUT
        image = SmallImage.unpack(changed)
        fixed = SmallImage.unpack(changed)
        fixed.fix_checksums()
        right += image == fixed
    assert right > 80


def test_a_short_search_runs_to_its_end_and_keeps_what_reaches_something_new(
    tmp_path: Path,
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for path in REACHED[:BEGUN_WITH]:
        (corpus / path.name).write_bytes(path.read_bytes())
    options = [
        "--seconds=500",
        "--runs=100",
        f"--corpus={corpus}",
        f"--found={tmp_path / 'found'}",
        "--seed=7",
    ]
    ended = subprocess.run([*FUZZ, *options], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    assert "0 found" in ended.stdout
    assert len(list(corpus.iterdir())) > BEGUN_WITH


def test_a_search_without_a_corpus_begins_with_the_seeds(tmp_path: Path) -> None:
    write_seeds(tmp_path / "new")
    assert {path.read_bytes() for path in (tmp_path / "new").iterdir()} == {*seeds()}
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "one").write_bytes(b"kept")
    write_seeds(tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["one"]


def test_files_are_tried_again_without_atheris() -> None:
    assert main(["--replay", *map(str, REACHED[:3])]) == 0


def test_without_atheris_the_command_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert main(["--seconds", "1"]) == 2
    assert "pip install atheris" in capsys.readouterr().err
