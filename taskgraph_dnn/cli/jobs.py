"""`submit`, `status`, `result` and `cancel`: inferences that run on a cluster after the command has ended."""

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.table import Table

from taskgraph_dnn import executors, jobs
from taskgraph_dnn.cli.job import PLAN, job_options, load_images, load_network, resume_option
from taskgraph_dnn.cli.outputs import Outputs, output_options
from taskgraph_dnn.cli.terminal import progress, show
from taskgraph_dnn.config import Job
from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.inference import infer
from taskgraph_dnn.io.atomic import check_writable, write_text

_OURS = ("threads", "processes", "synchronous", "ssh://")


@click.command()
@job_options((*PLAN, "checkpoint"))
@resume_option
@click.option("--name", required=True, help="What to call the job: letters, digits and . _ -")
def submit(job: Job, resume: bool, name: str) -> None:
    """Send an inference to a running cluster, and return at once.

    The cluster goes on by itself, and keeps the result until `cancel`. A packed network is read by the workers, which
    must find it under the same path; any other network goes to the cluster with the job, as the images do.
    """
    with _cluster(job):
        jobs.check_free(name)
        network = load_network(job)
        images = load_images(job, network.inputs)
        submission = jobs.submit(infer(network, images, checkpoint=job.checkpoint, resume=resume), name)
    click.echo(f"job {name}: {submission.samples:,} samples, {submission.tasks:,} tasks")
    for command, gives in (("status", "how far it is"), ("result", "the answer"), ("cancel", "an end to it")):
        click.echo(f"  taskgraph-dnn {command} {name} --scheduler {shlex.quote(job.scheduler)}  # {gives}")


@click.command()
@click.argument("name", required=False)
@job_options(("scheduler",))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write it to this file, a list of jobs.")
def status(job: Job, name: str | None, json_file: Path | None) -> None:
    """Show the jobs of a cluster, or more about one of them.

    A job is waiting, running, finished, failed, or lost: the cluster was restarted, or somebody cancelled its tasks.
    The exit status is 1 where the job that was asked for failed or is lost.
    """
    if json_file is not None:
        check_writable(json_file)
    with _cluster(job):
        found = jobs.statuses() if name is None else [jobs.status(name)]
    show(_all_table(found) if name is None else _job_table(found[0]))
    if json_file is not None:
        write_text(json_file, json.dumps([each.to_dict() for each in found], indent=1) + "\n")
    if name is not None and found[0].error:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("name")
@job_options(("scheduler",))
@click.option(
    "--timeout",
    type=click.FloatRange(0.0),
    metavar="SECONDS",
    help="How long to wait for the job; 0: not at all.  [default: until it is finished]",
)
@output_options
def result(job: Job, name: str, timeout: float | None, outputs: Outputs) -> None:
    """Wait for a job and show its answer, as `run` does. The cluster keeps it until `cancel`."""
    outputs.check()
    with _cluster(job), progress("Infer") as report:
        found = jobs.result(name, timeout=timeout, report=report)
    outputs.write(found, [])


@click.command()
@click.argument("name")
@job_options(("scheduler",))
def cancel(job: Job, name: str) -> None:
    """Take a job and its result from the cluster. A task that has begun ends before its next layer."""
    with _cluster(job):
        before = jobs.cancel(name)
    click.echo(f"job {name} is gone ({before})")


@contextmanager
def _cluster(job: Job) -> Iterator[None]:
    if job.scheduler.startswith(_OURS):
        expected = (
            "the address or the scheduler file of a cluster that goes on running: tcp://127.0.0.1:8786, scheduler.json"
        )
        raise PlanError(f"scheduler is {job.scheduler!r}, expected {expected}")
    with executors.connected(job.scheduler):
        yield


def _all_table(found: Sequence[jobs.Status]) -> Table:
    table = Table("job", "state", "partitions", "samples", "submitted", "workers")
    for each in found:
        about, done = each.submission, f"{each.done:,} of {each.partitions:,}"
        table.add_row(about.name, each.state, done, f"{about.samples:,}", about.since, f"{len(each.workers):,}")
    return table


def _job_table(found: jobs.Status) -> Table:
    about = found.submission
    table = Table(show_header=False)
    table.add_row("job", about.name)
    table.add_row("state", found.state)
    if found.error:
        table.add_row("error", found.error)
    table.add_row("partitions", f"{found.done:,} of {found.partitions:,} done")
    table.add_row("workers", ", ".join(found.workers) or "none")
    table.add_section()
    table.add_row("submitted", f"{about.since}, by version {about.version}")
    table.add_row("samples", f"{about.samples:,}")
    table.add_row("layers", f"{about.layers:,}, {about.edges:,} edges")
    table.add_row("tasks", f"{about.tasks:,}, strategy {about.strategy}")
    table.add_row("reductions", ", ".join(about.reductions) or "none")
    return table
