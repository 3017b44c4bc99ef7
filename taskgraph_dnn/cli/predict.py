"""`predict`: what a network says of samples in files, written to files."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from taskgraph_dnn import executors
from taskgraph_dnn.cli.job import job_options, load_network
from taskgraph_dnn.cli.terminal import progress
from taskgraph_dnn.config import Job
from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.prediction import draft_of
from taskgraph_dnn.prediction import predict as predict_to
from taskgraph_dnn.words import counted

_OPTIONS = (
    *("network", "neurons", "layers", "bias", "scheduler"),
    *("partitions", "kernel", "dtype", "reductions"),
)


@click.command()
@job_options(_OPTIONS)
@click.option("--input", "samples", required=True, help="Samples: a file, folder, pattern or URL; see `read_samples`.")
@click.option("--output", required=True, help=".parquet, .csv, .npz or .zarr.")
@click.option("--columns", help="Names of the input's columns, with commas between them.  [default: all]")
@click.option("--outputs", is_flag=True, help="Write all outputs: the default.")
@click.option("--labels", is_flag=True, help="Write the number of the largest output.")
@click.option("--top", type=int, help="Write so many largest outputs, and their numbers.")
@click.option("--resume", is_flag=True, help="Go on with what an earlier run has left, if any.")
def predict(
    job: Job,
    samples: str,
    output: str,
    columns: str | None,
    outputs: bool,
    labels: bool,
    top: int | None,
    resume: bool,
) -> None:
    """Run samples in files through a network, and write the outputs, labels or largest outputs to OUTPUT.

    Workers read and write; OUTPUT appears when all of it is there. If the command ends early, what is finished is kept
    in the folder .predict-OUTPUT, and --resume goes on from there.
    """
    if job.network is None:
        raise PlanError("there is no network: give --network")
    network = load_network(job)
    with _advice(output), executors.connected(job.scheduler) as where, progress("Predict") as report:
        written = predict_to(
            network,
            samples,
            output,
            columns=None if columns is None else [name.strip() for name in columns.split(",")],
            outputs=outputs,
            labels=labels,
            top=top,
            resume=resume,
            progress=report,
            **where,
        )
    click.echo(
        f"{written.path}: {written.samples:,} samples, {counted(written.partitions, 'partition')}, "
        f"{written.resumed:,} of them from before; {written.seconds}; {written.edges_per_second:.3g} edges/s"
    )


@contextmanager
def _advice(output: str) -> Iterator[None]:
    """Say what to do if the run ends early, by Ctrl-C too."""
    draft = draft_of(output)
    try:
        yield
    except BaseException:
        if draft.exists():
            click.echo(f"What is finished is kept in {draft}: --resume goes on from there.", err=True)
        raise
