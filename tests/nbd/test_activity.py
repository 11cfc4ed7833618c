from hypothesis import given
from hypothesis import strategies as st

from blobstore.nbd.activity import Activity, Meter, bound_of, bucket_of, percentile_ns


@given(latency=st.integers(0, 1 << 50))
def test_a_bucket_is_an_eighth_wide_and_its_bound_is_above_what_it_holds(latency: int) -> None:
    bucket = bucket_of(latency)
    assert latency < bound_of(bucket) <= latency + latency // 8 + 1
    assert bucket == 0 or bound_of(bucket - 1) <= latency


@given(latencies=st.lists(st.integers(1, 10**9), min_size=1), share=st.floats(0.01, 1))
def test_a_percentile_is_at_most_an_eighth_too_high(latencies: list[int], share: float) -> None:
    meter = Meter()
    for latency in latencies:
        meter.count(1, 10, latency)
    exact = next(
        latency
        for number, latency in enumerate(sorted(latencies), start=1)
        if number >= share * len(latencies)
    )
    assert exact < percentile_ns(meter.latencies(), share) <= exact * 9 // 8 + 1
    assert (meter.requests, meter.nanoseconds) == (len(latencies), sum(latencies))


def test_sums_have_all_that_was_counted() -> None:
    total = Activity()
    for latency in (100, 100, 5000):
        one = Activity()
        one.meters["read"].count(2, 8192, latency)
        one.meters["write"].errors += 1
        total.add(one)
    read = total.meters["read"]
    assert (read.requests, read.bytes, read.nanoseconds) == (6, 3 * 8192, 10_400)
    assert [count for _bound, count in read.latencies()] == [4, 2]
    assert total.meters["write"].errors == 3


def test_without_requests_there_is_no_latency() -> None:
    assert percentile_ns([], 0.5) == 0


def test_bounds_ascend() -> None:
    bounds = [bound_of(bucket) for bucket in range(301)]
    assert bounds == sorted(set(bounds))
