"""No client harms the NBD server, and no server the client; harm would be noticed."""

import importlib.util
import struct
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.nbd.client_negotiation import ClientNegotiation
from blobstore.nbd.constants import ExportFlag, Option, OptionReply
from blobstore.nbd.negotiation import Export, Negotiation, SendBytes
from tests.proof.nbd_fuzz import main
from tests.proof.nbd_fuzz_client import ClientHarmError, client_seeds
from tests.proof.nbd_fuzz_target import HarmError, seeds, try_input


@pytest.mark.parametrize("number", range(len(seeds())))
def test_sessions_of_clients_cut_off_or_changed_anywhere_do_no_harm(number: int) -> None:
    session, random = seeds()[number], Random(number)
    for _change in range(60):
        changed = bytearray(session)
        for _byte in range(random.randrange(4)):
            changed[random.randrange(len(changed))] = random.choice((0, 1, 127, 255))
        try_input(bytes(changed[: random.randrange(len(changed) + 1)]))


@given(data=st.binary(max_size=200), options=st.lists(st.sampled_from(Option), max_size=5))
def test_any_bytes_of_a_client_do_no_harm(data: bytes, options: list[Option]) -> None:
    sent = b"".join(struct.pack(">QII", 0x49484156454F5054, each, 0) for each in options)
    try_input(struct.pack(">I", 3) + sent + data)


def test_an_answer_to_a_client_that_must_encrypt_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reply = struct.pack(">QIII", 0x3E889045565A9, Option.LIST, OptionReply.SERVER, 0)
    monkeypatch.setattr(Negotiation, "next_event", lambda _self: SendBytes(reply))
    with pytest.raises(HarmError, match="before TLS"):
        try_input(b"")


def test_an_export_that_the_client_must_refuse_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ClientNegotiation, "_export", _export_in_odd_blocks)
    with pytest.raises(ClientHarmError, match="agreed on"):
        try_input(client_seeds()[0])


def _export_in_odd_blocks(_client: ClientNegotiation) -> Export:
    return Export("v", 1 << 20, ExportFlag.HAS_FLAGS, block_min_bytes=3)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.slow
def test_a_short_search_runs_to_its_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.proof.nbd_fuzz", "--runs=300", "--seconds=100"]
    command += ["--seed=3", f"--found={tmp_path}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    assert "0 found" in ended.stdout


def test_files_are_tried_again_without_atheris(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(seeds()[0])
    assert main(["--replay", str(tmp_path / "file")]) == 0
