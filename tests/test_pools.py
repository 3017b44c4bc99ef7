import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from taskgraph_dnn.kernels import kernel_problem, load_kernel
from taskgraph_dnn.pools import one_thread_each


def blas_threads():
    """What each BLAS of this process would use for a call from this thread."""
    return {pool["filepath"]: pool["num_threads"] for pool in ThreadpoolController().select(user_api="blas").info()}


def openblas():
    """Its threads are limited for the whole process."""
    np.ones((2, 2)) @ np.ones((2, 2))  # loads it


def mkl():
    """Its threads are limited for each thread that calls it."""
    problem = kernel_problem("mkl")
    if problem is not None:
        pytest.skip(problem)
    load_kernel("mkl")


@pytest.fixture(params=[openblas, mkl])
def before(request):
    request.param()
    threads = blas_threads()
    if max(threads.values(), default=1) == 1:
        pytest.skip("BLAS has one thread anyway")
    return threads


def test_blas_has_one_thread_in_every_task_until_the_last_one_ends(before):
    inside, go_on = threading.Event(), threading.Event()

    def task():
        with one_thread_each():
            inside.set()
            go_on.wait(10)
            return blas_threads()

    with ThreadPoolExecutor(1) as pool:
        with one_thread_each():
            other = pool.submit(task)
            inside.wait(10)
            here = blas_threads()
        go_on.set()
        there = other.result()  # where the first task is done, and this one is not
        afterwards = pool.submit(blas_threads).result()
    assert set(here.values()) == set(there.values()) == {1}
    assert blas_threads() == afterwards == before


def test_what_was_there_comes_back_after_an_error(before):
    with pytest.raises(ValueError), one_thread_each():
        raise ValueError
    assert blas_threads() == before


def test_contexts_may_be_nested(before):
    with one_thread_each():
        with one_thread_each():
            pass
        assert set(blas_threads().values()) == {1}
    assert blas_threads() == before
