"""Block ranges: what is changed in part is changed alone, the rest side by side."""

import random
import sys
import threading

import pytest

from blobstore.device import ranges as module
from blobstore.device.ranges import BlockRange, BlockRanges


def excludes(one: BlockRange, other: BlockRange) -> bool:
    assert module.excludes(one, other) == module.excludes(other, one)
    return module.excludes(one, other)


def test_writes_of_whole_blocks_run_beside_each_other() -> None:
    assert not excludes((0, 4096, ()), (0, 4096, ()))
    ranges = BlockRanges()
    with ranges.hold(0, 4096), ranges.hold(512, 1024):
        pass


def test_a_block_changed_in_part_excludes_all_that_touches_it() -> None:
    assert excludes((0, 512, (0,)), (0, 512, (0,)))
    assert excludes((0, 512, (0,)), (0, 4096, ()))
    assert excludes((0, 2048, (0, 1536)), (1536, 2048, ()))


def test_only_the_edges_exclude() -> None:
    assert not excludes((0, 2048, (0, 1536)), (512, 1536, ()))
    assert not excludes((0, 512, (0,)), (512, 1024, (512,)))


def test_a_request_waits_for_the_one_before_it_and_is_not_overtaken() -> None:
    ranges = BlockRanges()
    order: list[str] = []

    def change(name: str, *edges: int) -> None:
        with ranges.hold(0, 512, edges):
            order.append(name)

    threads = [
        threading.Thread(target=change, args=["part", 0]),
        threading.Thread(target=change, args=["whole"]),
    ]
    with ranges.hold(0, 512):
        for count, thread in enumerate(threads, start=2):
            thread.start()
            while len(ranges.requests) < count:
                thread.join(timeout=0.001)
        assert order == []
    for thread in threads:
        thread.join()
    assert order == ["part", "whole"]


def test_an_interrupted_wait_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = BlockRanges()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with ranges.hold(0, 512, (0,)):
        monkeypatch.setattr(ranges._ended, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt), ranges.hold(0, 512, (0,)):
            pytest.fail("entered")
    with ranges.hold(0, 512, (0,)):
        pass


def test_a_failed_change_lets_the_next_one_in() -> None:
    ranges = BlockRanges()
    with pytest.raises(OSError, match="gone"), ranges.hold(0, 512, (0,)):
        raise OSError("gone")
    with ranges.hold(0, 512, (0,)):
        pass


@pytest.mark.parametrize("seed", range(3))
def test_no_two_requests_that_exclude_each_other_are_inside_at_once(seed: int) -> None:
    ranges = BlockRanges()
    inside: list[BlockRange] = []
    clashes: list[tuple[BlockRange, BlockRange]] = []

    def work(chance: random.Random) -> None:
        for _ in range(500):
            start = chance.randrange(6) * 512
            end = start + chance.randrange(1, 4) * 512
            edges = tuple(edge for edge in (start, end - 512) if chance.random() < 0.3)
            mine = (start, end, edges)
            with ranges.hold(*mine):
                clashes.extend((mine, other) for other in list(inside) if excludes(mine, other))
                inside.append(mine)
                inside.remove(mine)

    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=work, args=[random.Random(seed + n)]) for n in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(switch_interval)
    assert (clashes, ranges.requests, ranges.partial_count) == ([], {}, 0)
