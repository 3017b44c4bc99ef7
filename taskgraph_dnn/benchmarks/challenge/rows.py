"""Rows of the challenge's table: one configuration with one choice of reductions, measured and verified."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median_low
from typing import Any

from taskgraph_dnn.benchmarks.challenge.files import Size
from taskgraph_dnn.benchmarks.challenge.oracle import Oracle
from taskgraph_dnn.benchmarks.challenge.runs import Configuration, Effort, Images
from taskgraph_dnn.benchmarks.challenge.verify import Verifier
from taskgraph_dnn.benchmarks.fingerprint import machine
from taskgraph_dnn.checks import Check
from taskgraph_dnn.io.download import Stage


@dataclass(frozen=True)
class Row:
    """What came out; the fields are those of the JSON file.

    Attributes:
        neurons, layers: of the network.
        samples: images of the configuration.
        samples_run: images that were run: fewer where all would have taken too long.
        reductions: as they were asked for.
        reductions_used: those that the plan uses.
        convert_seconds: making the packed network (one for all depths of a width); None if it was there.
        make_images_seconds: making the file of images; None if it was there.
        read_seconds: opening the network and reading the images.
        prepare_seconds: a warm-up of few images, planning, and the most that tasks still prepared in one run.
        infer_seconds: of the (lower) median run, from rows of input to rows of output.
        infer_seconds_all: of each run.
        wall_seconds_all: of each run, with all that Dask does before and after, and the categories.
        edges: of the network.
        edges_per_second: samples_run x edges / infer_seconds.
        multiply_adds: that were done.
        multiply_adds_share: of samples_run x edges.
        peak_bytes: the most memory of this process and its workers, while images were read and the row was run.
        categories: images that have a nonzero output.
        verified: whether all checks passed.
        verified_layers: how many layers the deepest check covers.
        checks: what was compared.
        official_network, official_images: whether they are the challenge's own.
        seed: of those that are not, and of the draw of the images that are compared.
        scheduler: where it ran.
        threads: that ran it.
        machine: processor, cores, memory and versions.
    """

    neurons: int
    layers: int
    samples: int
    samples_run: int
    reductions: str
    reductions_used: tuple[str, ...]
    convert_seconds: float | None
    make_images_seconds: float | None
    read_seconds: float
    prepare_seconds: float
    infer_seconds: float
    infer_seconds_all: tuple[float, ...]
    wall_seconds_all: tuple[float, ...]
    edges: int
    edges_per_second: float
    multiply_adds: int
    multiply_adds_share: float
    peak_bytes: int
    categories: int
    verified: bool
    verified_layers: int
    checks: tuple[Check, ...]
    official_network: bool
    official_images: bool
    seed: int
    scheduler: str
    threads: int
    machine: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return asdict(self)


def run_size(
    size: Size,
    depths: Sequence[int],
    choices: Mapping[str, Sequence[str]],
    effort: Effort,
    *,
    scheduler: str,
    where: dict[str, Any],
    stage: Stage,
    say: Callable[[str], None],
) -> Iterator[Row]:
    """Yield the rows of one width, each when it is done: for each depth one for each choice of reductions.

    Args:
        size: the width; what is missing of its files is made.
        depths: layers of the networks.
        choices: names of reductions, by what the choice is called.
        effort: how much work a row may be.
        scheduler: what `where` is called.
        where: keywords for `Inference.compute`.
        stage: shows progress.
        say: told what is being done, where that takes a while.

    Raises:
        TaskgraphError: a file cannot be made, or is damaged.
    """
    say(f"{size.neurons:,} neurons: network and images")
    stored = size.make(stage)
    images = Images.read(size, stored.images)
    oracle = Oracle(images.rows[images.compared])
    for layers in sorted(set(depths)):
        configuration = Configuration(size, layers, stored, images, effort, where)
        say(f"{size.neurons:,} x {layers:,}: float64 reference")
        verifier = Verifier(configuration, oracle)
        for name, reductions in choices.items():
            say(f"{size.neurons:,} x {layers:,}: {name}")
            yield _row(name, reductions, configuration, verifier, scheduler)


def _row(
    name: str,
    reductions: Sequence[str],
    configuration: Configuration,
    verifier: Verifier,
    scheduler: str,
) -> Row:
    run = configuration.run(reductions)
    checks = verifier.checks(name, run, reductions)
    size, stored, result = configuration.size, configuration.stored, run.result
    infer_seconds = median_low(run.infer_seconds)
    return Row(
        neurons=size.neurons,
        layers=configuration.layers,
        samples=size.samples,
        samples_run=result.samples,
        reductions=name,
        reductions_used=result.plan.reductions,
        convert_seconds=stored.network_seconds,
        make_images_seconds=stored.images_seconds,
        read_seconds=run.read_seconds,
        prepare_seconds=run.prepare_seconds,
        infer_seconds=infer_seconds,
        infer_seconds_all=run.infer_seconds,
        wall_seconds_all=run.wall_seconds,
        edges=result.plan.edges,
        edges_per_second=result.edges / infer_seconds,
        multiply_adds=result.multiply_adds,
        multiply_adds_share=result.multiply_adds / result.edges,
        peak_bytes=run.peak_nbytes,
        categories=len(run.categories),
        verified=all(check.passed for check in checks),
        verified_layers=verifier.layers,
        checks=tuple(checks),
        official_network=stored.official_network,
        official_images=stored.official_images,
        seed=size.seed,
        scheduler=scheduler,
        threads=result.plan.threads,
        machine=_machine(),
    )


def _machine() -> dict[str, Any]:
    """Return what the numbers depend on, in short."""
    known = machine()
    packages = {name: version for name, version in known["packages"].items() if name in _PACKAGES}
    return {name: known[name] for name in ("processor", "cores", "memory_nbytes", "python")} | {"packages": packages}


_PACKAGES = ("taskgraph-dnn", "numpy", "scipy", "numba", "llvmlite")
