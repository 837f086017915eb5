"""The same work on many cases, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TypeVar

from medcl.errors import MedclError

T = TypeVar("T")
R = TypeVar("R")

EVERY_S = 5.0  # seconds between progress lines


def in_processes(
    work: Callable[[T], R], items: Sequence[T], threads: int
) -> Iterator[tuple[T, R | Exception]]:
    """Yield each item with its result, or with the exception its work raised, as they are done.

    `work` is a function of a module, and items and results can be pickled. With one thread all
    is done here, in order. Raises MedclError if a process is killed, as for lack of memory.
    """
    threads = min(threads, len(items))
    if threads <= 1:
        for item in items:
            yield item, _attempt(work, item)
        return
    # Spawned: a fork would copy locks that other threads of this process hold.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(threads, mp_context=context, initializer=_end_with_parent) as pool:
        with _one_thread_each():
            futures = {pool.submit(_attempt, work, item): item for item in items}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except BrokenProcessPool:
            raise MedclError(
                f"one of {threads} processes was killed, most likely for lack of memory; what is "
                "done is kept: start again with fewer --threads"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Progress:
    """A line now and then: how many are done, how fast, and the time that is left.

    Where a step tells how many bytes it read, the line gives megabytes per second too.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done, self.read = what, total, 0, 0
        self.start = self.shown = time.monotonic()

    def step(self, count: int = 1, *, read: int = 0) -> None:
        self.done += count
        self.read += read
        now = time.monotonic()
        if now - self.shown < EVERY_S and self.done < self.total:
            return
        self.shown = now
        passed = max(now - self.start, 1e-9)
        rate = self.done / passed
        left = (self.total - self.done) / rate
        volume = f", {self.read / passed / 1e6:.1f} MB/s" if self.read else ""
        print(
            f"{self.what}: {self.done}/{self.total}, {rate:.1f}/s{volume}, {left:.0f} s left",
            flush=True,
        )


def _attempt(work: Callable[[T], R], item: T) -> R | Exception:
    try:
        return work(item)
    except Exception as error:  # any: a bad case never stops the others
        return error


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that start now calculate with one thread: numpy reads this as it is imported.

    Measured on two cores: two processes with two threads each take twice as long.
    """
    before = dict(os.environ)
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    try:
        yield
    finally:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
