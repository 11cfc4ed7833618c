"""What opens when it is awaited, and can be used in `async with` without `await`."""

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar


class Closable(Protocol):
    """An open store or blob."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


C = TypeVar("C", bound=Closable, covariant=True)


class Opening(Coroutine[Any, Any, C]):
    """A store or blob that is not open yet.

    `blob = await store.open_blob(...)` opens it, and the caller closes it.
    `async with store.open_blob(...) as blob:` closes it at the end. An `Opening` is also a
    coroutine, so that a task can open it: `asyncio.create_task(store.open_blob(...))`.
    """

    def __init__(self, opening: Coroutine[Any, Any, C]) -> None:
        self._opening = opening
        self._opened: C | None = None
        self.__qualname__ = getattr(opening, "__qualname__", "")  # what a task shows of itself

    def __await__(self) -> Generator[Any, None, C]:
        return self._opening.__await__()

    def send(self, value: Any, /) -> Any:
        """Run the opening until it waits the next time, as a coroutine does."""
        return self._opening.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error, such as a cancellation, where the opening waits."""
        return self._opening.throw(*error)

    def close(self) -> None:
        """End an opening that is not awaited, or not to its end."""
        self._opening.close()

    async def __aenter__(self) -> C:
        self._opened = await self._opening
        return await self._opened.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(kind, error, trace)
