import pytest

from blobstore.rpc.json_stream import JsonStream, Members
from blobstore.rpc.parameters import (
    CheckShallowCopy,
    CreateAio,
    CreateVolume,
    GetStatistics,
    ParametersError,
    Resize,
    decode_parameters,
)


def parameters(text: str) -> Members:
    (value,) = JsonStream().feed(text.encode() + b" ")
    assert isinstance(value, Members)
    return value


@pytest.mark.parametrize("number", ["10", "10.0", "1e1", "1.0E+1", "100e-1"])
def test_an_integer_can_be_written_in_any_way(number: str) -> None:
    assert decode_parameters(
        CheckShallowCopy, parameters(f'{{"operation_id":{number}}}')
    ) == CheckShallowCopy(10)


@pytest.mark.parametrize(
    "number", ["-1", "-0", "1.5", "0.0", "-0.0", '"10"', "4294967296", "1e400", "true", "null"]
)
def test_what_is_no_integer_in_range_is_refused(number: str) -> None:
    with pytest.raises(ParametersError):
        decode_parameters(CheckShallowCopy, parameters(f'{{"operation_id":{number}}}'))


def test_64_bits_are_taken_and_65_are_refused() -> None:
    most = parameters('{"name":"v","size_in_mib":18446744073709551615}')
    assert decode_parameters(Resize, most).size_in_mib == 2**64 - 1
    with pytest.raises(ParametersError):
        decode_parameters(Resize, parameters('{"name":"v","size_in_mib":18446744073709551616}'))


@pytest.mark.parametrize(
    "text",
    [
        '{"lvol_name":"v"}',
        '{"lvol_name":"v","size_in_mib":1,"more":1}',
        '{"lvol_name":"v","lvol_name":"v","size_in_mib":1}',
        '{"lvol_name":null,"size_in_mib":1}',
        '{"lvol_name":"v","size_in_mib":1,"uuid":null}',
        '{"lvol_name":"v\\u0000","size_in_mib":1}',
        '{"lvol_name":"v","size_in_mib":1,"thin_provision":1}',
        '{"lvol_name":"v","size_in_mib":1,"clear_method":"UNMAP"}',
    ],
)
def test_members_are_known_once_of_their_type_and_all_there(text: str) -> None:
    with pytest.raises(ParametersError):
        decode_parameters(CreateVolume, parameters(text))


def test_an_array_and_no_parameters_are_refused_where_something_is_required() -> None:
    with pytest.raises(ParametersError):
        decode_parameters(CreateVolume, [])
    with pytest.raises(ParametersError):
        decode_parameters(CreateVolume, None)


def test_a_uuid_is_checked_where_it_names_a_new_device() -> None:
    head = '{"name":"a","filename":"f","uuid":'
    good = parameters(head + '"A9959197-b5e2-4f2d-8095-251ffb6985a5"}')
    uuid = decode_parameters(CreateAio, good).uuid
    assert uuid == "A9959197-b5e2-4f2d-8095-251ffb6985a5"
    for bad in ('"x"', '"a9959197b5e24f2d8095251ffb6985a5"', "1"):
        with pytest.raises(ParametersError):
            decode_parameters(CreateAio, parameters(head + bad + "}"))


def test_no_more_than_1024_names_are_taken() -> None:
    names = ",".join(['"x"'] * 1025)
    with pytest.raises(ParametersError):
        decode_parameters(GetStatistics, parameters(f'{{"names":[{names}]}}'))
