"""Promised pages: what lasts is summed up, what passes is needed once."""

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
