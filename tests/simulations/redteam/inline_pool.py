"""A process pool without processes: work is done when it is submitted, in the process of the test."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, ClassVar

__all__ = ["InlinePool"]


class InlinePool:
    """Stands for `ProcessPoolExecutor`; `made` says with how many processes each was asked for."""

    made: ClassVar[list[int]] = []

    def __init__(self, processes: int, context: Any, start: Callable[..., None], arguments: Sequence[Any]) -> None:
        type(self).made.append(processes)
        self._start, self._arguments = start, arguments
        from wardround.simulations.redteam import red_team

        setattr(red_team, "_data", arguments[0])  # noqa: B010  (what `start` does, without its one thread)

    def __enter__(self) -> "InlinePool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def submit(self, work: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(work(*arguments))
        return future

    def shutdown(self, *, cancel_futures: bool) -> None:
        return None
