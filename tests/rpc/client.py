"""The original's own client, with answers and errors as values."""

import json
from dataclasses import dataclass
from typing import Any

from spdk.rpc.client import JSONRPCClient, JSONRPCException


@dataclass(frozen=True)
class Failure:
    """What a call was answered with instead of a result."""

    code: int
    message: str


class Client:
    """Calls methods by the `spdk` package's client."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._client = JSONRPCClient(path)

    def __call__(self, method: str, **params: Any) -> Any:
        """Return the result of a call, or its failure.

        Raises:
            JSONRPCException: The connection is gone.
        """
        try:
            return self._client.call(method, params or None)
        except JSONRPCException as error:
            if "Got JSON-RPC error response" not in str(error):
                raise  # the connection is gone
            answer = json.loads(str(error).split("response:\n")[1])
            return Failure(answer["code"], answer["message"])

    def close(self) -> None:
        self._client.close()
