"""BLAS's thread pools: a task is one thread's work, and a pool inside it would fight with Dask's threads.

Kernels that work with OpenMP see to it themselves: its limit is one of each thread, not of the process.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_inside = 0
_limits = ExitStack()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Keep BLAS to one thread for as long as any thread of this process is in such a context.

    The limits are those of the process, so the first thread that comes sets them, and the last one that goes puts back
    what was there.
    """
    global _inside
    with _lock:
        if not _inside:
            _in_a_thread(lambda: _limits.enter_context(ThreadpoolController().limit(limits=1, user_api="blas")))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _in_a_thread(_limits.close)


def _in_a_thread(function: Callable[[], object]) -> None:
    """Call it in a thread that ends: threadpoolctl lets a thread's limits alone for as long as that thread lives."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()
