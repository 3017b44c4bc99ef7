"""How long a few samples wait: a compiled network beside the dense one in torch and ONNX Runtime, and beside Dask."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.benchmarks.cases.networks import Problem, pruned_network
from taskgraph_dnn.benchmarks.peers import chains
from taskgraph_dnn.benchmarks.peers.networks import PEERS
from taskgraph_dnn.benchmarks.report.races import peer_cells
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.suite import Effort, Suite, Table, amount
from taskgraph_dnn.benchmarks.timing import THREADS, Contender, in_turn, measured, summary
from taskgraph_dnn.compiled_network import CompiledNetwork, compile_network
from taskgraph_dnn.inference import infer
from taskgraph_dnn.network import Network
from taskgraph_dnn.reference import mismatch, reference_outputs
from taskgraph_dnn.synthetic import digit_images, radixnet

_NAME = "latency"

#: Samples of a call.
_SAMPLES = 1, 64

#: Peers, by the name that the end-to-end suite knows them by, and how they take a network's rows.
_CHAINS: dict[str, Callable[[Network, int], chains.Chain]] = {
    "torch dense": chains.torch_rows,
    "torch compiled": chains.torch_compiled,
    "onnxruntime": chains.onnx_rows,
    "scipy": chains.scipy_rows,
}
_PEERS = {peer.name: peer for peer in PEERS if peer.name in _CHAINS}


@dataclass(frozen=True)
class Case:
    """A network, and samples for it; how many is asked of `make`."""

    name: str
    make: Callable[[int], Problem]


def _challenge(samples: int) -> Problem:
    return radixnet(1024, 120), digit_images(samples, 1024).toarray()


CASES = (
    Case("784-512-512-10, 90% sparse", partial(pruned_network, widths=(784, 512, 512, 10), density=0.1)),
    Case("784-4096-4096-10, 95% sparse", partial(pruned_network, widths=(784, 4096, 4096, 10), density=0.05)),
    Case("RadiX-Net 1,024 x 120", _challenge),
)


def measure(effort: Effort, say: Callable[[str], None]) -> Iterator[Measurement]:
    """Yield what a call takes, here and in each peer on one thread and on all."""
    for case in effort.pick(CASES[:1], CASES, CASES):
        for samples in _SAMPLES:
            name = f"{case.name}, {samples} sample{'s' * (samples > 1)}"
            say(name)
            network, rows = case.make(samples)
            right = reference_outputs(network, rows)
            contenders = [_compiled(network, rows, right), _lazy(network, rows, right)]
            for peer in _PEERS.values():
                misfit = peer.misfit(network)
                if misfit:
                    yield Measurement(_NAME, name, peer.name, "peer", left_out=misfit)
                elif peer.problem() is None:
                    contenders += [_peer(peer.name, network, rows, right, count) for count in (1, THREADS)]
            parameters = {"samples": samples, "edges": network.nnz, "layers": len(network), "inputs": network.inputs}
            for each in measured(_NAME, name, contenders, effort, parameters):
                yield replace(each, details={"default": each.contender == "compile"})


def _contender(name: str, how: str, threads: int, rows: Any, call: Callable[[], Any], right: Any) -> Contender:
    last: list[NDArray[Any]] = []

    def run() -> None:
        last[:] = [call()]

    return Contender(name, how, threads, len(rows), in_turn(run), lambda: mismatch(last[0], right), work_unit="samples")


def _compiled(network: Network, rows: NDArray[np.float32], right: NDArray[np.float64]) -> Contender:
    model = compile_network(network, batch=len(rows))
    ours = _contender("compile", f"{_kernels(model)}, tiles of {model.plan.lanes}", 1, rows, lambda: model(rows), right)
    counts = {"layers": len(model.plan.layers), "edges": sum(layer.nnz for layer in model.plan.layers)}
    return replace(ours, kind="ours", counted=lambda: counts)


def _kernels(model: CompiledNetwork) -> str:
    return ", ".join(sorted({layer.kernel for layer in model.plan.layers}))


def _lazy(network: Network, rows: NDArray[np.float32], right: NDArray[np.float64]) -> Contender:
    inference = infer(network, rows, partitions=1)

    def call() -> NDArray[Any]:
        return np.asarray(inference.compute(scheduler="threads", num_workers=1).outputs.toarray())

    return replace(_contender("infer", "planned before; Dask's threads", 1, rows, call, right), kind="ours")


def _peer(
    name: str, network: Network, rows: NDArray[np.float32], right: NDArray[np.float64], threads: int
) -> Contender:
    chain = _CHAINS[name](network, threads)
    found = _contender(name, "one call", threads, rows, lambda: chains.dense_rows(chain(rows)), right)
    return replace(found, around=partial(_PEERS[name].limited, threads))


def missing() -> dict[str, str]:
    """Return the peers that cannot be used here, and why."""
    problems = {name: peer.problem() for name, peer in _PEERS.items()}
    return {name: why for name, why in problems.items() if why is not None}


def tables(report: Report) -> Sequence[Table]:
    """Return what a call takes, and how many times as long elsewhere."""
    cell = peer_cells(report, _NAME)
    lazy = {each.case: each for each in report.of(_NAME) if each.contender == "infer"}
    rows = [["network, samples of a call", "compile", "infer", *_CHAINS]]
    for ours in (each for each in report.of(_NAME) if each.contender == "compile"):
        taken = (amount(summary(each.rounds).median, each.unit) for each in (ours, lazy[ours.case]))
        rows.append([ours.case, *taken, *(cell(ours.case, name) for name in _CHAINS)])
    return [Table("A call", rows)]


LATENCY = Suite(
    _NAME,
    "Latency",
    "A call with one sample and with 64, from an array to an array. *compile* is `tg.compile`, on one thread and "
    "without Dask; *infer* is a planned inference on Dask's threads. Peers run the dense network (scipy the sparse "
    f"one), each on one thread or on {THREADS}, whichever is faster; a cell has their time, how many times as long as "
    "*compile* that is, the spread of this ratio, and who is ahead.",
    measure,
    tables,
    missing,
)
