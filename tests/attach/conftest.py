from collections.abc import Iterator

import pytest

from tests.attach.attachments import Attachments, attachments


@pytest.fixture
def attached() -> Iterator[Attachments]:
    with attachments() as found:
        yield found
