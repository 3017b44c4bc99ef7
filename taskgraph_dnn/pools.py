"""BLAS's thread pools: a task is one thread's work, and a pool inside it would fight with Dask's threads.

Kernels that work with OpenMP see to it themselves: its limit is one of each thread, not of the process.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_inside = 0
_pools: ThreadpoolController
_limits = ExitStack()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Keep BLAS to one thread, for calls from this thread, in this context.

    OpenBLAS has one limit for the process. MKL has one for each thread, and so has a BLAS that works with OpenMP: what
    has still more threads once the process's limits are set is limited here as well.
    """
    with _one_thread_in_the_process() as pools:
        others = [pool["filepath"] for pool in pools.info() if pool["num_threads"] != 1]
        with pools.select(filepath=others).limit(limits=1):
            yield


@contextmanager
def _one_thread_in_the_process() -> Iterator[ThreadpoolController]:
    """Keep the process's limits at one thread for as long as any thread is in such a context, and give BLAS's pools.

    The first thread that comes sets the limits, and the last one that goes puts back what was there.
    """
    global _inside, _pools
    with _lock:
        if not _inside:
            _pools = ThreadpoolController().select(user_api="blas")
            _in_a_thread(lambda: _limits.enter_context(_pools.limit(limits=1)))
        _inside += 1
    try:
        yield _pools
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
