import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.rpc.json_stream import (
    MAX_DEPTH,
    MAX_TOKENS,
    MAX_VALUE_BYTES,
    InvalidJsonError,
    Json,
    JsonStream,
    Members,
    Number,
    encode,
    encode_string,
)


def plain(value: Json) -> object:
    """Return what Python's own parser makes of the same text."""
    if isinstance(value, Members):
        return {name: plain(part) for name, part in value.pairs}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return json.loads(value.text) if isinstance(value, Number) else value


def values(*pieces: bytes) -> list[Json]:
    stream = JsonStream()
    return [value for piece in pieces for value in stream.feed(piece)]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
).filter(lambda value: isinstance(value, (dict, list, str)))


@given(wanted=st.lists(JSON, max_size=4), cuts=st.lists(st.integers(1, 40), max_size=30))
def test_values_arrive_whole_however_the_stream_is_cut(
    wanted: list[object], cuts: list[int]
) -> None:
    data = " ".join(json.dumps(value, ensure_ascii=False) for value in wanted).encode()
    pieces = []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    assert [plain(value) for value in values(*pieces, data)] == wanted


@given(data=st.text(alphabet='{}[]:,"truefalsn01.-e \\\n\x00é', max_size=40))
def test_any_text_is_values_or_waits_or_is_refused_as_python_does(data: str) -> None:
    stream = JsonStream()
    try:
        found = list(stream.feed(data.encode()))
    except InvalidJsonError:
        with pytest.raises(json.JSONDecodeError):
            json.loads(data)
        return
    if len(found) == 1 and stream.is_between_values:
        assert repr(plain(found[0])) == repr(json.loads(data))


def test_values_follow_each_other_without_anything_between() -> None:
    assert [plain(value) for value in values(b'{"a":1}[2]"x"true ')] == [{"a": 1}, [2], "x", True]


def test_a_repeated_member_and_the_way_a_number_was_written_are_kept() -> None:
    (found,) = values(b'{"id":1.0,"id":-0}')
    assert found == Members([("id", Number("1.0")), ("id", Number("-0"))])


def test_a_value_that_is_not_complete_waits() -> None:
    stream = JsonStream()
    assert not list(stream.feed(b'{"method":"x'))
    assert not stream.is_between_values
    assert len(list(stream.feed(b'"}'))) == 1
    assert stream.is_between_values


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"x", id="no JSON"),
        pytest.param(b'{"a" 1 ', id="no colon"),
        pytest.param(b"{1 ", id="a number as a name"),
        pytest.param(b"[1 2 ", id="no comma"),
        pytest.param(b"[1,]", id="a comma too many"),
        pytest.param(b'{"a":1,}', id="a comma too many in an object"),
        pytest.param(b"{]", id="another bracket"),
        pytest.param(b"]", id="an end without a beginning"),
        pytest.param(b"[01]", id="a number with a leading zero"),
        pytest.param(b"[1.]", id="a number without an end"),
        pytest.param(b'"\n"', id="a control character"),
        pytest.param(b'"\\x"', id="an unknown escape"),
        pytest.param(b'"\\ud800"', id="half a surrogate pair"),
        pytest.param(b'"\xff"', id="no UTF-8"),
        pytest.param(b"trux", id="a literal that is none"),
        pytest.param(b"[" * (MAX_DEPTH + 1), id="too deep"),
        pytest.param(b"[" + b"1," * MAX_TOKENS, id="too many tokens"),
        pytest.param(b'"' + b"x" * MAX_VALUE_BYTES, id="too long"),
    ],
)
def test_what_cannot_become_a_value_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(InvalidJsonError):
        values(data)


def test_what_is_just_within_the_limits_is_taken() -> None:
    assert values(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert values(b"[" + b",".join([b"1"] * (MAX_TOKENS - 2)) + b"]")
    assert values(b'"' + b"x" * (MAX_VALUE_BYTES - 3) + b'"')


def test_strings_are_written_in_ascii_with_upper_case_digits() -> None:
    assert encode_string('é\n"\\/\x7f\x00\U0001f600') == (
        '"\\u00E9\\n\\"\\\\/\\u007F\\u0000\\uD83D\\uDE00"'
    )


@given(value=JSON)
def test_what_is_written_is_ascii_without_spaces_and_reads_as_it_was(value: object) -> None:
    text = encode(value)
    assert text.isascii()
    assert json.loads(text) == value
