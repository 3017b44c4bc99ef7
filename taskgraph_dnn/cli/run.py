"""`run` and `verify`: inference, and whether its answer is right."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import click
import scipy.sparse

from taskgraph_dnn import executors
from taskgraph_dnn.checks import Check, check_result
from taskgraph_dnn.cli.job import RUN, job_options, load_images, load_network
from taskgraph_dnn.cli.terminal import progress, show
from taskgraph_dnn.config import Job, settings
from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.events import TaskEvent
from taskgraph_dnn.inference import infer
from taskgraph_dnn.io import read_categories, write_categories
from taskgraph_dnn.io.atomic import check_writable, write_text
from taskgraph_dnn.kernels import kernel_names, kernel_problem, load_kernel
from taskgraph_dnn.network import Network
from taskgraph_dnn.report import check_table, layers_table, result_dict, result_table
from taskgraph_dnn.result import Result

_OUTPUT = click.Path(path_type=Path)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that has a result the files it can be written to."""
    for name, text in (
        ("categories", "Write the categories, one a line, from 1."),
        ("json", "Write result, plan and times to this file."),
    ):
        command = click.option(f"--{name}", f"{name}_file", type=_OUTPUT, help=text)(command)
    return command


def check_outputs(*files: Path | None) -> None:
    """Check, before work, that these files can be written."""
    for file in files:
        if file is not None:
            check_writable(file)


def show_result(result: Result, checks: list[Check], json_file: Path | None, categories_file: Path | None) -> None:
    """Show a result and its checks as tables, and write it to the files that are given."""
    if result.plan.reductions:
        show(layers_table(result))
    show(result_table(result))
    if checks:
        show(check_table(checks))
    if json_file is not None:
        write_text(json_file, json.dumps(result_dict(result, checks), indent=1) + "\n")
    if categories_file is not None:
        write_categories(result.categories, categories_file)


@click.command()
@job_options(RUN)
@output_options
def run(job: Job, json_file: Path | None, categories_file: Path | None) -> None:
    """Run a network on images and show the answer and what it took.

    Without --network and --images: the 1,024 x 120 RadiX-Net of the Graph Challenge on 60,000 synthetic digits. The
    exit status is 1 where --truth or --check find a difference.
    """
    check_outputs(json_file, categories_file)
    truth = None if job.truth is None else read_categories(job.truth)
    network = load_network(job)
    images = load_images(job, network.inputs)
    with executors.connected(job.scheduler) as where:
        result = _run(network, images, where)
    checks = check_result(result, network, images, truth=truth, samples=job.check or 0, seed=job.seed)
    show_result(result, checks, json_file, categories_file)
    _exit(checks)


@click.command()
@job_options(RUN)
def verify(job: Job) -> None:
    """Run a network with --kernel, or with every kernel that can be used here, and compare with a float64 reference.

    Takes the options of `run`; --check is 200 where it is not given. The exit status is 1 where an answer differs.
    """
    samples = 200 if job.check is None else job.check
    truth = None if job.truth is None else read_categories(job.truth)
    if truth is None and not samples:
        raise PlanError("there is nothing to compare with: give --truth, or --check above 0")
    chosen = settings().kernel
    kernels = kernel_names() if chosen == "auto" else (load_kernel(chosen).name,)
    network = load_network(job)
    images = load_images(job, network.inputs)
    checks: list[Check] = []
    with executors.connected(job.scheduler) as where:
        for kernel in kernels:
            problem = kernel_problem(kernel)
            if problem is not None:
                click.echo(f"left out: {problem}")
                continue
            result = _run(network, images, where, kernel)
            checks += check_result(result, network, images, truth=truth, samples=samples, seed=job.seed, label=kernel)
    show(check_table(checks))
    _exit(checks)


def _run(network: Network, images: scipy.sparse.csr_array, where: dict[str, Any], kernel: str | None = None) -> Result:
    inference = infer(network, images, kernel=kernel)
    done = count(1)
    with progress("Infer") as report:

        def advance(event: TaskEvent) -> None:  # noqa: ARG001
            report(next(done), inference.plan.tasks)

        with executors.watching(inference.token, advance):
            return inference.compute(**where)


def _exit(checks: list[Check]) -> None:
    if not all(check.passed for check in checks):
        raise click.exceptions.Exit(1)
