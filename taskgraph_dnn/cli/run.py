"""`run` and `verify`: inference, and whether its answer is right."""

import json
from itertools import count
from pathlib import Path
from typing import Any

import click
import scipy.sparse
from rich.console import Console

from taskgraph_dnn import executors
from taskgraph_dnn.checks import Check, check_result
from taskgraph_dnn.cli.job import Job, job_options
from taskgraph_dnn.cli.progress import progress
from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.inference import infer
from taskgraph_dnn.io import write_categories
from taskgraph_dnn.io.atomic import atomic_path
from taskgraph_dnn.kernels import kernel_names, kernel_problem
from taskgraph_dnn.network import Network
from taskgraph_dnn.report import check_table, result_dict, result_table
from taskgraph_dnn.result import Result

_OUTPUT = click.Path(dir_okay=False, path_type=Path)


@click.command()
@job_options()
@click.option("--truth", type=click.Path(path_type=Path), help="Categories to compare the answer with.")
@click.option("--check", type=int, help="Compare this many samples with a float64 reference.")
@click.option("--json", "json_file", type=_OUTPUT, help="Write result, plan and times to this file.")
@click.option("--categories", "categories_file", type=_OUTPUT, help="Write the categories, one a line, from 1.")
def run(job: Job, json_file: Path | None, categories_file: Path | None) -> None:
    """Run a network on images and show the answer and what it took.

    Without --network and --images: the 1,024 x 120 RadiX-Net of the Graph Challenge on 60,000 synthetic digits. The
    exit status is 1 where --truth or --check find a difference.
    """
    for path in (json_file, categories_file):
        _check_folder(path)
    truth = job.load_truth()
    network = job.load_network()
    images = job.load_images(network.inputs)
    with executors.connected(job.scheduler) as where:
        result = _run(network, images, where)
    checks = check_result(result, network, images, truth=truth, samples=job.check, seed=job.seed)
    console = Console()
    console.print(result_table(result))
    if checks:
        console.print(check_table(checks))
    if json_file is not None:
        with atomic_path(json_file) as unfinished:
            unfinished.write_text(json.dumps(result_dict(result, checks), indent=1) + "\n", encoding="utf-8")
    if categories_file is not None:
        write_categories(result.categories, categories_file)
    _exit(checks)


@click.command()
@job_options()
@click.option("--truth", type=click.Path(path_type=Path), help="Categories to compare the answers with.")
@click.option("--check", type=int, default=200, show_default=True, help="Samples to compare with a float64 reference.")
def verify(job: Job) -> None:
    """Run a network with every kernel that can be used here and compare each answer with a float64 reference.

    Takes the options of `run`; --kernel is not one it heeds. The exit status is 1 where an answer differs.
    """
    truth = job.load_truth()
    network = job.load_network()
    images = job.load_images(network.inputs)
    checks: list[Check] = []
    with executors.connected(job.scheduler) as where:
        for kernel in kernel_names():
            if kernel_problem(kernel) is None:
                result = _run(network, images, where, kernel)
                checks += check_result(
                    result, network, images, truth=truth, samples=job.check, seed=job.seed, label=kernel
                )
    Console().print(check_table(checks))
    _exit(checks)


def _run(network: Network, images: scipy.sparse.csr_array, where: dict[str, Any], kernel: str | None = None) -> Result:
    inference = infer(network, images, kernel=kernel)
    done = count(1)
    with progress("Infer") as report, executors.watching(lambda _: report(next(done), inference.plan.tasks)):
        return inference.compute(**where)


def _check_folder(path: Path | None) -> None:
    if path is not None and not path.absolute().parent.is_dir():
        raise PlanError(f"cannot write {path}: there is no folder {path.absolute().parent}")


def _exit(checks: list[Check]) -> None:
    if not all(check.passed for check in checks):
        raise click.exceptions.Exit(1)
