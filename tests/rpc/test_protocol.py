import pytest

from blobstore.rpc.json_stream import JsonStream, Members, Number
from blobstore.rpc.protocol import (
    Batch,
    BatchAnswers,
    Message,
    Refusal,
    Request,
    RpcError,
    decode_message,
    encode_error,
    encode_result,
)


def decoded(text: str) -> Message | Batch:
    (value,) = JsonStream().feed(text.encode())
    return decode_message(value)


def test_a_request_is_its_method_parameters_and_id_as_written() -> None:
    text = '{"jsonrpc":"2.0","method":"m","params":{"a":1},"id":1.0}'
    assert decoded(text) == Request("m", Members([("a", Number("1"))]), "1.0")


@pytest.mark.parametrize("member", ["", ',"params":null'])
def test_null_parameters_are_the_same_as_none(member: str) -> None:
    assert decoded(f'{{"method":"m"{member}}}') == Request("m", None, None)


def test_empty_parameters_are_not_the_same_as_none() -> None:
    assert decoded('{"method":"m","params":{}}') == Request("m", Members(), None)


@pytest.mark.parametrize(
    "text",
    [
        '{"method":"m","more":1,"id":1}',
        '{"method":"m","method":"m","id":1}',
        '{"id":1}',
        '{"method":1,"id":1}',
        '{"jsonrpc":"1.0","method":"m","id":1}',
        '{"method":"m","id":{}}',
        '{"method":"m","id":[]}',
        '{"method":"m","id":true}',
        '"m"',
        "true",
        "[]",
    ],
)
def test_a_request_that_is_none_is_refused_with_a_null_id(text: str) -> None:
    refusal = decoded(text)
    assert isinstance(refusal, Refusal)
    assert encode_error(refusal.id_text, refusal.error) == (
        '{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Invalid request"}}'
    )


@pytest.mark.parametrize("params", ['"x"', "1", "true"])
def test_parameters_that_are_neither_object_nor_array_are_refused_with_the_id(params: str) -> None:
    refusal = decoded(f'{{"method":"m","params":{params},"id":"a\\u00e9"}}')
    assert isinstance(refusal, Refusal)
    assert refusal.id_text == '"a\\u00E9"'


def test_a_batch_is_answered_as_one_array_in_the_order_of_the_ends() -> None:
    batch = decoded('[{"method":"a","id":1},1,{"method":"b"},{"method":"c","id":3}]')
    assert isinstance(batch, Batch)
    answers = BatchAnswers(len(batch.messages))
    assert answers.add(encode_result("3", True)) is None
    assert answers.add(encode_error(None, RpcError(-32600, "Invalid request"))) is None
    assert answers.add(encode_result(None, True)) is None
    assert answers.add(encode_result("1", "x")) == (
        '[{"jsonrpc":"2.0","id":3,"result":true},'
        '{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Invalid request"}},'
        '{"jsonrpc":"2.0","id":1,"result":"x"}]'
    )


def test_a_batch_with_nothing_to_report_has_no_answer() -> None:
    assert BatchAnswers(1).add(encode_result(None, True)) is None
