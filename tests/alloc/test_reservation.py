"""Promised pages: what lasts is summed up, what passes is needed once."""

import sys

from blobstore.alloc.reservation import Need, Reservations


def test_lasting_needs_add_up_and_the_largest_passing_one_counts() -> None:
    reservations = Reservations()
    reservations.set(1, Need(lasting=2, passing=3))
    reservations.set(2, Need(lasting=1, passing=5))
    assert reservations.total == 3 + 5


def test_a_changed_need_replaces_the_old_one() -> None:
    reservations = Reservations()
    reservations.set(1, Need(lasting=4, passing=1))
    assert reservations.total_with(1, Need(lasting=1, passing=2)) == 3
    reservations.set(1, Need(lasting=1, passing=2))
    assert reservations.total == 3


def test_a_new_blob_is_added_to_what_the_others_need() -> None:
    reservations = Reservations()
    reservations.set(1, Need(lasting=4, passing=1))
    assert reservations.total_with(2, Need(lasting=1, passing=0)) == 6


def test_a_clean_blob_needs_nothing() -> None:
    reservations = Reservations()
    reservations.set(1, Need(lasting=4, passing=9))
    reservations.set(2, Need(lasting=1, passing=2))
    assert reservations.holds(1)
    reservations.clear(1)
    assert reservations.total == 3
    reservations.clear(1)
    assert (reservations.total, reservations.holds(1)) == (3, False)


def test_what_the_neediest_blob_needed_before_does_not_count() -> None:
    reservations = Reservations()
    reservations.set(1, Need(lasting=0, passing=9))
    reservations.set(2, Need(lasting=0, passing=4))
    reservations.set(1, Need(lasting=0, passing=1))
    assert reservations.total == 4
    reservations.clear(2)
    assert reservations.total == 1


def test_blobs_that_become_clean_one_by_one_are_not_counted_again_each_time() -> None:
    reservations = Reservations()
    count = 20_000
    for blob_id in range(count):
        reservations.set(blob_id, Need(lasting=1, passing=2))
    calls = 0

    def count_calls(_frame: object, _event: str, _what: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count_calls)
    try:
        for blob_id in range(count):
            reservations.clear(blob_id)
    finally:
        sys.setprofile(None)
    assert reservations.total == 0
    assert calls < 20 * count
