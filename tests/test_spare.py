"""Memory that tasks hand on: what is borrowed is nobody else's, and no more is held than was ever in use."""

import threading

import numpy as np
import pytest

import taskgraph_dnn as tg
from taskgraph_dnn.activations import ALIGNMENT
from taskgraph_dnn.spare import SPARE, Spare


@pytest.fixture
def spare():
    return Spare()


def test_what_is_given_back_is_lent_again(spare):
    with spare.task():
        first = spare.borrow((3, 5, 16), np.float32)
        address = first.ctypes.data
        assert address % ALIGNMENT == 0
        spare.give_back(first)
        again = spare.borrow((2, 7, 16), np.float32)
        assert (again.ctypes.data, again.shape, again.dtype) == (address, (2, 7, 16), np.float32)
        other = spare.borrow((2, 7, 16), np.float64)
        assert not np.may_share_memory(again, other)


def test_a_block_that_is_far_too_large_is_left_for_others(spare):
    with spare.task():
        large, small = spare.borrow((1000, 1, 16), np.float32), spare.borrow((10, 1, 16), np.float32)
        spare.give_back(large)
        spare.give_back(small)
        assert spare.borrow((10, 1, 16), np.float32).ctypes.data == small.ctypes.data
        assert spare.borrow((600, 1, 16), np.float32).ctypes.data == large.ctypes.data


def test_no_more_is_held_than_was_in_use(spare):
    with spare.task():
        for tiles in (1, 10, 100, 1000):
            spare.give_back(spare.borrow((tiles, 1, 16), np.float32))
            assert spare.nbytes <= tiles * 64 + ALIGNMENT
        kept = spare.borrow((400, 1, 16), np.float32)
        assert spare.nbytes + kept.nbytes <= 1000 * 64 + ALIGNMENT
        spare.leave(kept)
        assert spare.borrow((400, 1, 16), np.float32).ctypes.data != kept.ctypes.data


def test_nothing_is_held_when_no_task_runs(spare):
    with spare.task():
        with spare.task():
            spare.give_back(spare.borrow((8, 8, 16), np.float32))
        assert spare.nbytes > 0
    assert spare.nbytes == 0
    spare.give_back(spare.borrow((8, 8, 16), np.float32))
    assert spare.nbytes == 0


def test_nothing_is_held_after_a_task_that_failed(spare):
    def fail():
        with spare.task():
            spare.borrow((8, 8, 16), np.float32)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with spare.task():
        spare.give_back(spare.borrow((1, 1, 16), np.float32))
        assert 0 < spare.nbytes <= 64 + ALIGNMENT


def test_threads_never_share_a_block(spare):
    wrong = []

    def work(number):
        rng = np.random.default_rng(number)
        for _ in range(300):
            with spare.task():
                block = spare.borrow((int(rng.integers(1, 20)), 4, 16), np.float32)
                block[...] = number
                if not (block == number).all():
                    wrong.append(number)
                spare.give_back(block)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert spare.nbytes == 0


@pytest.mark.parametrize("reductions", ["none", "dynamic"])
def test_runs_leave_nothing_behind(reductions):
    """Of all that tasks borrow, each block is given back, or left with the task's result."""
    network, rows = tg.radixnet(1024, 24, seed=1), tg.digit_images(samples=400, neurons=1024, seed=1)
    with SPARE.task():
        tg.infer(network, rows, reductions=reductions, partitions=3).compute()
        assert SPARE.nbytes > 0
        assert SPARE.lent_nbytes == 0
    assert SPARE.nbytes == 0
