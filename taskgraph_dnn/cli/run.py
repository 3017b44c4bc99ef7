"""`run` and `verify`: inference, and whether its answer is right."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import click

from taskgraph_dnn import executors
from taskgraph_dnn.checks import Check, check_result
from taskgraph_dnn.cli.job import RUN, job_options, load_images, load_network, resume_option
from taskgraph_dnn.cli.outputs import Outputs, output_options
from taskgraph_dnn.cli.terminal import show
from taskgraph_dnn.cli.watch import bar, front
from taskgraph_dnn.config import Job, settings
from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.events import Subscriber
from taskgraph_dnn.inference import Inference, infer
from taskgraph_dnn.io import read_categories
from taskgraph_dnn.kernels import kernel_names, kernel_problem, load_kernel
from taskgraph_dnn.plan import Plan
from taskgraph_dnn.report import check_table
from taskgraph_dnn.result import Result


@click.command()
@job_options((*RUN, "checkpoint"))
@resume_option
@output_options
@click.option("--watch", is_flag=True, help="Show how far each partition is, and how long the rest may take.")
def run(job: Job, resume: bool, outputs: Outputs, watch: bool) -> None:
    """Run a network on images and show the answer and what it took.

    Without --network and --images: the 1,024 x 120 RadiX-Net of the Graph Challenge on 60,000 synthetic digits. The
    exit status is 1 where --truth or --check find a difference.
    """
    outputs.check()
    truth = None if job.truth is None else read_categories(job.truth)
    network = load_network(job)
    images = load_images(job, network.inputs)
    with executors.connected(job.scheduler) as where:
        inference = infer(network, images, checkpoint=job.checkpoint, resume=resume)
        result = _run(inference, where, front if watch else bar)
    checks = check_result(result, network, images, truth=truth, samples=job.check or 0, seed=job.seed)
    outputs.write(result, checks)
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
            result = _run(infer(network, images, kernel=kernel), where, bar)
            checks += check_result(result, network, images, truth=truth, samples=samples, seed=job.seed, label=kernel)
    show(check_table(checks))
    _exit(checks)


def _run(
    inference: Inference, where: dict[str, Any], follow: Callable[[Plan], AbstractContextManager[Subscriber]]
) -> Result:
    with follow(inference.plan) as subscriber, executors.watching(inference.token, subscriber):
        return inference.compute(**where)


def _exit(checks: list[Check]) -> None:
    if not all(check.passed for check in checks):
        raise click.exceptions.Exit(1)
