"""`info`, `plan` and `visualize`: what there is and what would be done."""

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
import psutil
from dask.system import CPU_COUNT
from rich.table import Table

from taskgraph_dnn import executors
from taskgraph_dnn.cli.job import PLAN, count_images, job_options, load_images, load_network
from taskgraph_dnn.cli.terminal import show
from taskgraph_dnn.config import Job, settings
from taskgraph_dnn.dump import LAYOUTS, VIEWS, check_format, write_graph
from taskgraph_dnn.errors import MissingDependencyError
from taskgraph_dnn.inputs import density
from taskgraph_dnn.io import read_network
from taskgraph_dnn.io.atomic import check_writable, write_text
from taskgraph_dnn.kernels import kernel_names, kernel_problem
from taskgraph_dnn.machine import processor
from taskgraph_dnn.network import Network
from taskgraph_dnn.plan import Plan, make_plan
from taskgraph_dnn.synthetic import digit_images

_PACKAGES = (
    "taskgraph-dnn",
    "dask",
    "distributed",
    "numpy",
    "scipy",
    "numba",
    "pyarrow",
    "safetensors",
    "scikit-learn",
)


#: Synthetic images that a plan looks at, to know how dense they are.
_LOOKED_AT = 100


@click.command()
@job_options(PLAN)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the plan to this file.")
def plan(job: Job, json_file: Path | None) -> None:
    """Show how a network would be run: partitions, spans of layers, kernels."""
    if json_file is not None:
        check_writable(json_file)
    made = _plan(job)
    click.echo(str(made))
    if json_file is not None:
        write_text(json_file, json.dumps(made.to_dict(), indent=1) + "\n")


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@job_options(PLAN)
@click.option(
    "--view",
    type=click.Choice(VIEWS),
    help="Nodes: layers of partitions, tasks, or groups. Default: logical, or collapsed where that is too large.",
)
@click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    default="auto",
    help="Of .svg and .png: a grid, graphviz's, or graphviz's where it is installed and the graph is small (auto).",
)
def visualize(job: Job, output: Path, view: str | None, layout: str) -> None:
    """Write the task graph to OUTPUT: .svg, .png, .dot, .json, .graphml, .mmd (Mermaid) or .html."""
    check_writable(output)
    check_format(output, layout)
    written = write_graph(_plan(job), output, view=view, layout=layout)
    note = f"; {written.note}" if written.note else ""
    click.echo(f"{output}: {len(written.nodes):,} nodes, {written.title}{note}")


@click.command()
@click.option("--network", type=click.Path(path_type=Path), help="Show what is in this network.")
def info(network: Path | None) -> None:
    """Show this machine, the kernels that can be used on it, and what is in a network."""
    if network is not None:
        show(_network_table(network))
    show(_machine_table())
    show(_kernel_table())


def _plan(job: Job) -> Plan:
    network = load_network(job)
    samples, filled = _batch(job, network)
    with executors.connected(job.scheduler):
        threads, workers = executors.resources()
        return make_plan(network, samples, settings(), threads=threads, workers=len(workers) or None, density=filled)


def _batch(job: Job, network: Network) -> tuple[int, float]:
    """Return how many images there are, and which part of them is not zero; of synthetic ones a few are looked at."""
    if job.images is not None:
        images = load_images(job, network.inputs)
        return images.shape[0], density(images)
    samples = count_images(job)
    if job.network is not None or not samples:
        return samples, 1.0
    try:
        return samples, density(digit_images(min(samples, _LOOKED_AT), network.inputs, seed=job.seed))
    except MissingDependencyError:
        return samples, 1.0


def _network_table(path: Path) -> Table:
    found = read_network(path)
    table = Table("layer", "inputs", "outputs", "nnz", "density", "activation", title=f"{path}", title_justify="left")
    last: tuple[str, ...] = ()
    for number, layer in enumerate(found, start=1):
        slope = "" if layer.negative_slope is None else f", slope {layer.negative_slope:g} below 0"
        cap = "" if layer.cap is None else f", at most {layer.cap:g}"
        density = layer.nnz / (layer.inputs * layer.outputs)
        activation = layer.activation + slope + cap
        row = (f"{layer.inputs:,}", f"{layer.outputs:,}", f"{layer.nnz:,}", f"{density:.2%}", activation)
        if row != last:
            table.add_row(str(number), *row)
            last = row
    reduced = "" if found.reduced is None else f", {found.reduced.network.nnz:,} after static reductions"
    mebibytes = found.nbytes / 2**20
    table.caption = f"{len(found):,} layers, {found.nnz:,} edges{reduced}, {mebibytes:,.1f} MiB, digest {found.digest}"
    return table


def _machine_table() -> Table:
    table = Table(show_header=False, title="machine", title_justify="left")
    table.add_row("processor", processor())
    table.add_row("cores", f"{os.cpu_count()}, of which {CPU_COUNT} can be used here")
    table.add_row("memory", f"{psutil.virtual_memory().total / 2**30:.1f} GiB")
    table.add_row("system", f"{platform.platform()}, Python {platform.python_version()}")
    table.add_row("packages", ", ".join(f"{name} {_version(name)}" for name in _PACKAGES))
    return table


def _kernel_table() -> Table:
    table = Table("kernel", "can be used", title="kernels", title_justify="left")
    for name in kernel_names():
        table.add_row(name, kernel_problem(name) or "yes")
    return table


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
