"""The worker of the soak: random load on a real image, with a log of it, until it is killed.

Before an operation its intent is appended to the log, and after it that it was
acknowledged; each by one `os.write`, which the kernel keeps when the writer is
killed. Every thread has blobs of its own, so that what happens to a blob has
an order. What is written says where it belongs and in which write.
"""

import argparse
import json
import os
import random
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final

from blobstore import Blob, Blobstore, NoSpaceError
from blobstore.testing.expectation import BLOCK, ZERO_BLOCK

CLUSTER: Final = 16384
BLOCKS_PER_CLUSTER: Final = CLUSTER // BLOCK
NAME: Final = "name"
THREADS: Final = 3
MOST_BLOBS: Final = 6
MAIN: Final = -1
"""Who does what no thread does: opening and closing the store."""

_SESSION_S: Final = 0.2
_STAMP: Final = struct.Struct("<QQ")
_CHANCES: Final[dict[str, int]] = {
    "write": 30, "zero": 4, "unmap": 6, "read": 4, "flush": 8, "flush_all": 2, "xattr": 6,
    "remove": 2, "resize": 5, "create": 6, "delete": 5, "snapshot": 4, "clone": 3,
    "inflate": 1, "decouple": 2, "read_only": 1, "reopen": 3,
}  # fmt: skip

Record = list[Any]
"""[operation, name of the blob, argument, ...] as it stands in the log."""
Action = tuple[Record, Callable[[], object]]


def stamped(stamp: int, block: int) -> bytes:
    """Return the content of a block that the write with that number wrote at that place."""
    return _STAMP.pack(stamp, block) * (BLOCK // _STAMP.size)


def name_of(blob: Blob) -> int:
    """Return the name by which the log knows the blob; it is there from the creation on."""
    return int(blob.xattrs[NAME])


class Log:
    """The log on disk; threads append to it at will."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def intend(self, who: int, record: Record) -> None:
        """Say what will be done next."""
        self._append({"who": who, "do": record})

    def acknowledge(self, who: int, *, done: bool) -> None:
        """Say that it was done, or refused without having changed anything."""
        self._append({"who": who, "done": done})

    def _append(self, entry: dict[str, Any]) -> None:
        os.write(self._descriptor, json.dumps(entry).encode() + b"\n")


class Hand:
    """One thread of the worker: the blobs that are its own, and what it does to them."""

    def __init__(self, number: int, store: Blobstore, log: Log, seed: int, first: int) -> None:
        self.number = number
        self.store = store
        self.log = log
        self.rng = random.Random(seed)
        self.blobs: dict[int, Blob] = {}
        self.next_number = first + number

    def run(self, deadline: float) -> None:
        """Work until the deadline; an unexpected error ends the process."""
        try:
            while time.monotonic() < deadline:
                self.act()
        except BaseException:
            traceback.print_exc()
            os._exit(3)

    def act(self) -> None:
        """Do one thing by chance, if it makes sense just now."""
        (name,) = self.rng.choices(list(_CHANCES), weights=list(_CHANCES.values()))
        action: Action | None = getattr(self, f"_{name}")()
        if action is None:
            return
        record, call = action
        self.log.intend(self.number, record)
        try:
            call()
        except NoSpaceError:
            self.log.acknowledge(self.number, done=False)
        else:
            self.log.acknowledge(self.number, done=True)

    # What to work on

    def _new_number(self) -> int:
        self.next_number += THREADS
        return self.next_number

    def _pick(self, wanted: Callable[[Blob], bool] = lambda _blob: True) -> tuple[int, Blob] | None:
        found = [(name, blob) for name, blob in self.blobs.items() if wanted(blob)]
        return self.rng.choice(found) if found else None

    def _blocks(self, blob: Blob) -> tuple[int, int]:
        """Return (first block, count) of any part of the blob, often of whole clusters."""
        size = blob.size // BLOCK
        first = self.rng.randrange(size)
        count = self.rng.randint(1, min(size - first, 3 * BLOCKS_PER_CLUSTER))
        if self.rng.random() < 0.4:
            first -= first % BLOCKS_PER_CLUSTER
            count = min(size - first, -(-count // BLOCKS_PER_CLUSTER) * BLOCKS_PER_CLUSTER)
        return first, count

    # Data

    def _write(self) -> Action | None:
        picked = self._pick(_takes_data)
        if picked is None:
            return None
        name, blob = picked
        (first, count), stamp = self._blocks(blob), self._new_number()
        data = b"".join(stamped(stamp, first + step) for step in range(count))
        return ["write", name, first, count, stamp], lambda: blob.write(data, first * BLOCK)

    def _zero(self) -> Action | None:
        picked = self._pick(_takes_data)
        if picked is None:
            return None
        name, blob = picked
        first, count = self._blocks(blob)
        return (
            ["zero", name, first, count],
            lambda: blob.write_zeroes(first * BLOCK, count * BLOCK),
        )

    def _unmap(self) -> Action | None:
        picked = self._pick(lambda blob: _takes_data(blob) and _is_alone(blob))
        if picked is None:
            return None
        name, blob = picked
        first, count = self._blocks(blob)
        return ["zero", name, first, count], lambda: blob.unmap(first * BLOCK, count * BLOCK)

    def _read(self) -> None:
        """Read a whole blob: every block must say that it belongs there."""
        picked = self._pick()
        if picked is None:
            return
        name, blob = picked
        content = blob.read(blob.size)
        for block in range(len(content) // BLOCK):
            found = content[block * BLOCK : (block + 1) * BLOCK]
            if found not in (ZERO_BLOCK, stamped(_STAMP.unpack_from(found)[0], block)):
                raise AssertionError(f"blob {name}: block {block} holds {found[:16].hex()}...")

    # Durability

    def _flush(self) -> Action | None:
        picked = self._pick()
        return picked and (["flush", picked[0]], picked[1].flush)

    def _flush_all(self) -> Action:
        return ["flush", *self.blobs], self.store.flush

    def _reopen(self) -> Action | None:
        picked = self._pick()
        if picked is None:
            return None
        name, blob = picked

        def reopen() -> None:
            blob.close()
            self.blobs[name] = self.store.open_blob(blob.id)

        return ["flush", name], reopen

    # Metadata

    def _xattr(self) -> Action | None:
        picked = self._pick(_is_writable)
        if picked is None:
            return None
        name, blob = picked
        key, size = self.rng.choice("abc"), self.rng.choice([1, 30, 400, 3000])
        value = (str(self._new_number()) * size)[:size]
        return ["xattr", name, key, value], lambda: blob.set_xattr(key, value.encode())

    def _remove(self) -> Action | None:
        picked = self._pick(lambda blob: _is_writable(blob) and len(blob.xattrs) > 1)
        if picked is None:
            return None
        name, blob = picked
        key = self.rng.choice([key for key in blob.xattrs if key != NAME])
        return ["remove", name, key], lambda: blob.remove_xattr(key)

    def _resize(self) -> Action | None:
        picked = self._pick(lambda blob: _is_writable(blob) and _is_alone(blob))
        if picked is None:
            return None
        (name, blob), count = picked, self.rng.randrange(9)
        return ["resize", name, count], lambda: blob.resize(count * CLUSTER)

    def _read_only(self) -> Action | None:
        picked = self._pick(_is_writable)
        if picked is None:
            return None
        name, blob = picked

        def set_read_only() -> None:
            blob.set_read_only()
            blob.sync_md()

        return ["read_only", name], set_read_only

    # Blobs

    def _create(self) -> Action | None:
        if len(self.blobs) >= MOST_BLOBS:
            return None
        name, count = self._new_number(), self.rng.randrange(9)
        thin, table = self.rng.random() < 0.7, self.rng.random() < 0.6
        xattrs = {NAME: str(name).encode()}

        def create() -> None:
            self.blobs[name] = self.store.create_blob(
                count * CLUSTER, thin=thin, extent_table=table, xattrs=xattrs
            )

        return ["create", name, count], create

    def _delete(self) -> Action | None:
        picked = self._pick(lambda blob: len(blob.info.clones) < 2)
        if picked is None:
            return None
        name, blob = picked

        def delete() -> None:
            blob.close()
            try:
                self.store.delete_blob(blob.id)
            except NoSpaceError:
                self.blobs[name] = self.store.open_blob(blob.id)
                raise
            del self.blobs[name]

        return ["delete", name], delete

    def _snapshot(self) -> Action | None:
        return self._derive("snapshot", self._pick(_is_writable), Blob.snapshot)

    def _clone(self) -> Action | None:
        return self._derive("clone", self._pick(lambda b: b.info.read_only), Blob.clone)

    def _derive(
        self,
        kind: str,
        picked: tuple[int, Blob] | None,
        derive: Callable[[Blob, str], Blob],
    ) -> Action | None:
        if picked is None or len(self.blobs) >= MOST_BLOBS:
            return None
        (name, blob), new = picked, self._new_number()

        def make() -> None:
            self.blobs[new] = derive(blob, str(new))

        return [kind, name, new], make

    def _inflate(self) -> Action | None:
        picked = self._pick()
        return picked and (["inflate", picked[0]], picked[1].inflate)

    def _decouple(self) -> Action | None:
        picked = self._pick(lambda blob: not _is_alone(blob))
        return picked and (["decouple", picked[0]], picked[1].decouple)


def _is_writable(blob: Blob) -> bool:
    return not blob.info.read_only


def _takes_data(blob: Blob) -> bool:
    return blob.size > 0 and _is_writable(blob)


def _is_alone(blob: Blob) -> bool:
    return blob.info.parent is None


def work(image: str, log: Log, rng: random.Random, first: int) -> int:
    """Open the store, let all threads work for a while, and close it; return the next number."""
    with Blobstore.open(image) as store:
        seeds = [rng.randrange(1 << 32) for _ in range(THREADS)]
        hands = [Hand(n, store, log, seed, first) for n, seed in enumerate(seeds)]
        _hand_out(store, hands)
        deadline = time.monotonic() + _SESSION_S
        threads = [threading.Thread(target=hand.run, args=(deadline,)) for hand in hands]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        log.intend(MAIN, ["flush", *(name for hand in hands for name in hand.blobs)])
    log.acknowledge(MAIN, done=True)
    return max(hand.next_number for hand in hands) + THREADS


def _hand_out(store: Blobstore, hands: Sequence[Hand]) -> None:
    """Give every thread whole families: blobs that share clusters belong together."""
    blobs = {blob_id: store.open_blob(blob_id) for blob_id in store.blob_ids()}
    for blob_id, blob in blobs.items():
        ancestor = blob_id
        while (parent := blobs[ancestor].info.parent) is not None:
            ancestor = parent
        hands[name_of(blobs[ancestor]) % len(hands)].blobs[name_of(blob)] = blob


def main(arguments: Sequence[str] | None = None) -> None:
    """Work until killed, or until the soak itself is gone."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.soak_worker")
    parser.add_argument("image")
    parser.add_argument("log")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--first", type=int, required=True, help="the first number not used yet")
    options = parser.parse_args(arguments)
    log, rng, first = Log(options.log), random.Random(options.seed), options.first
    parent = os.getppid()
    os.write(sys.stdout.fileno(), b"ready\n")
    while os.getppid() == parent:
        first = work(options.image, log, rng, first)


if __name__ == "__main__":
    main()
