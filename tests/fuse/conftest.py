from collections.abc import Iterator

import pytest

from tests.fuse.attachments import Attachments, attachments


@pytest.fixture
def attached() -> Iterator[Attachments]:
    with attachments() as found:
        yield found
