"""Which kernel is chosen for which layer, and what the choice is made of."""

import numpy as np
import pytest
import scipy.sparse

import taskgraph_dnn as tg
from taskgraph_dnn.config import settings
from taskgraph_dnn.costs import choose_kernel, cost
from taskgraph_dnn.errors import KernelError
from taskgraph_dnn.kernels import load_kernel, registry
from taskgraph_dnn.kernels.groups import LARGEST, groups_of
from taskgraph_dnn.plan import make_plan


def chosen(layer, *, name="auto", first=False, density=1.0, lanes=32):
    kernel, reason = choose_kernel(name, layer, lanes, first=first, density=density)
    return kernel.name, reason


def random_pattern(rng, neurons, edges):
    rows = np.argsort(rng.random((neurons, neurons)), axis=1)[:, :edges].ravel()
    weights = rng.standard_normal(rows.size)
    return tg.Layer(
        scipy.sparse.csc_array((weights, rows, np.arange(0, rows.size + 1, edges)), shape=(neurons, neurons))
    )


def test_the_pattern_decides(rng):
    assert chosen(tg.radixnet(256, 9)[8])[0] == "tile"
    assert chosen(random_pattern(rng, 512, 16))[0] == "csr"
    assert chosen(random_pattern(rng, 512, 64))[0] == "csr"
    assert chosen(random_pattern(rng, 512, 256))[0] == "quads"
    assert chosen(tg.Layer(rng.standard_normal((512, 512))))[0] == "quads"
    uneven = rng.standard_normal((512, 512)) * (rng.random((512, 512)) < rng.random(512) ** 4)
    assert chosen(tg.Layer(uneven))[0] != "ell"


def test_sparse_rows_of_input_are_pushed():
    layer = tg.radixnet(1024, 1)[0]
    assert chosen(layer, first=True, density=0.1)[0] == "push"
    assert chosen(layer, first=True, density=1.0)[0] == "tile"
    assert chosen(layer, first=False, density=0.02)[0] == "tile"


def test_a_kernel_that_reads_rows_is_left_to_the_first_layer():
    layer = tg.radixnet(256, 1)[0]
    assert chosen(layer, name="push", first=True) == ("push", "as asked")
    name, reason = chosen(layer, name="push")
    assert name == "tile"
    assert reason.startswith("push reads the network's input only; us a tile: tile ")


def test_the_reason_names_what_was_compared(rng):
    reason = chosen(random_pattern(rng, 64, 8))[1]
    assert [word for word in reason.replace(",", "").split() if word in registry._OWN] == [
        kernel.name
        for kernel in sorted(
            (load_kernel(name) for name in ("tile", "ell", "csr", "quads", "dense", "scipy")),
            key=lambda kernel: kernel.seconds(random_pattern(np.random.default_rng(20200922), 64, 8), 32, 1.0),
        )
    ]


def test_without_numba_blas_or_scipy_is_taken(rng, monkeypatch):
    for name in ("tile", "ell", "csr", "quads", "push"):
        monkeypatch.setitem(registry._OWN, name, ("taskgraph_dnn.kernels.nowhere", "numba", "numba"))
    load_kernel.cache_clear()
    try:
        assert chosen(random_pattern(rng, 512, 4))[0] == "scipy"
        assert chosen(tg.Layer(rng.standard_normal((64, 64))))[0] == "dense"
        monkeypatch.setattr(registry, "_AUTO", ("tile",))
        with pytest.raises(KernelError, match="no kernel can be used"):
            chosen(random_pattern(rng, 16, 2))
    finally:
        load_kernel.cache_clear()


@pytest.mark.parametrize("name", ["tile", "ell", "csr", "quads", "push", "dense", "scipy"])
def test_costs_grow_with_the_work(name, rng):
    kernel = load_kernel(name)
    small, large = random_pattern(rng, 128, 8), random_pattern(rng, 256, 8)
    one = cost(small, kernel, 32, 32)
    assert cost(large, kernel, 32, 32).seconds > one.seconds > 0
    assert cost(small, kernel, 33, 32).seconds == pytest.approx(2 * one.seconds)
    double = cost(small, kernel, 32, 32, dtype="float64")
    assert double.seconds == pytest.approx(2 * one.seconds)
    assert (double.read_nbytes, double.written_nbytes) == (2 * 4 * 32 * 128, 2 * 4 * 32 * 128)


def test_making_tiles_of_rows_is_a_part_of_the_first_layer(rng):
    layer = random_pattern(rng, 128, 8)
    later, dense, sparse = (
        cost(layer, load_kernel("csr"), 32, 32, first=first, density=density).seconds
        for first, density in ((False, 0.01), (True, 1.0), (True, 0.01))
    )
    assert later < sparse < dense
    pushed = [cost(layer, load_kernel("push"), 32, 32, first=True, density=d).seconds for d in (0.01, 0.1)]
    assert pushed[0] < pushed[1]


def test_kernels_do_not_depend_on_how_many_samples_there_are(rng):
    """Or a sample's bits would, because not all of them add in the same order."""
    layers = [tg.Layer(rng.standard_normal((64, 64)) * (rng.random((64, 64)) < d)) for d in np.linspace(0.05, 1, 39)]
    plans = [make_plan(tg.Network(layers), samples, settings(), threads=2) for samples in (1, 16, 17, 1000)]
    assert len({plan.lanes for plan in plans}) == 2
    kernels = {tuple(layer.kernel for layer in plan.layers) for plan in plans}
    assert len(kernels) == 1
    assert {"csr", "quads"} <= set(*kernels)


def test_a_plan_takes_the_lanes_that_cost_less(rng):
    layer = random_pattern(rng, 256, 16)
    network = tg.Network([layer])
    plan = make_plan(network, 1000, settings(), threads=2)
    each = {
        lanes: min(load_kernel(k).seconds(layer, lanes, 1.0) / lanes for k in ("tile", "ell", "csr"))
        for lanes in (16, 32)
    }
    assert plan.lanes == min(each, key=each.__getitem__)


# Groups of outputs that share their inputs.


def members(groups):
    return [
        (groups.order[a:b].tolist(), groups.indices[c:d].tolist())
        for a, b, c, d in zip(groups.starts, groups.starts[1:], groups.indptr, groups.indptr[1:], strict=False)
    ]


def test_outputs_with_the_same_inputs_are_found_wherever_they_stand(rng):
    support = rng.random((4, 50)) < 0.3
    which = rng.permutation(np.repeat(np.arange(4), 16))
    layer = tg.Layer(rng.uniform(1, 2, (50, 64)) * support[which].T)
    found = members(groups_of(layer))
    assert len(found) == 4
    for outputs, inputs in found:
        assert len(set(which[outputs])) == 1
        assert inputs == np.flatnonzero(support[which[outputs[0]]]).tolist()


@pytest.mark.parametrize("missing", [0.0, 0.02, 0.5])
def test_every_output_is_in_one_group_with_all_its_inputs(missing, rng):
    shared = rng.random(60) < 0.5
    layer = tg.Layer(rng.uniform(1, 2, (60, 100)) * shared[:, None] * (rng.random((60, 100)) >= missing))
    found = members(groups_of(layer))
    assert sorted(output for outputs, _ in found for output in outputs) == list(range(100))
    assert max(len(outputs) for outputs, _ in found) <= LARGEST
    for outputs, inputs in found:
        read = layer.weights[:, outputs].toarray().any(axis=1)
        assert inputs == np.flatnonzero(read).tolist()
    padded = sum(len(outputs) * len(inputs) for outputs, inputs in found)
    if missing == 0:
        assert padded == layer.nnz
    if missing == 0.02:
        assert layer.nnz < padded < 1.2 * layer.nnz
        assert len(found) < 15
    if missing == 0.5:
        assert padded == layer.nnz
        assert len(found) == 100


def test_groups_come_in_the_order_of_their_outputs(rng):
    firsts = [outputs[0] for outputs, _ in members(groups_of(tg.radixnet(128, 8)[7]))]
    assert firsts == sorted(firsts)


def test_radixnet_layers_are_groups_of_sixteen():
    for layer in tg.radixnet(1024, 8):
        found = members(groups_of(layer))
        assert {(len(outputs), len(inputs)) for outputs, inputs in found} == {(16, 32)}
