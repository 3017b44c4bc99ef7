import threading

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from taskgraph_dnn.pools import one_thread_each


def blas_threads():
    return [pool["num_threads"] for pool in ThreadpoolController().select(user_api="blas").info()]


@pytest.fixture
def before():
    np.ones((2, 2)) @ np.ones((2, 2))  # loads it
    threads = blas_threads()
    if max(threads, default=1) == 1:
        pytest.skip("BLAS has one thread anyway")
    return threads


def test_blas_has_one_thread_until_the_last_task_ends(before):
    inside, go_on = threading.Event(), threading.Event()

    def task():
        with one_thread_each():
            inside.set()
            go_on.wait(10)

    other = threading.Thread(target=task)
    with one_thread_each():
        other.start()
        inside.wait(10)
        assert set(blas_threads()) == {1}
    assert set(blas_threads()) == {1}  # the other task is not done
    go_on.set()
    other.join()
    assert blas_threads() == before


def test_what_was_there_comes_back_after_an_error(before):
    with pytest.raises(ValueError), one_thread_each():
        raise ValueError
    assert blas_threads() == before
