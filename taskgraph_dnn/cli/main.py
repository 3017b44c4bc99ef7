"""The command group: its subcommands, and how its errors reach the user."""

import errno
from typing import Any

import click

import taskgraph_dnn
from taskgraph_dnn.cli.bench import bench
from taskgraph_dnn.cli.challenge import challenge
from taskgraph_dnn.cli.fetch import fetch
from taskgraph_dnn.cli.files import convert, generate
from taskgraph_dnn.cli.jobs import cancel, result, status, submit
from taskgraph_dnn.cli.look import info, plan, visualize
from taskgraph_dnn.cli.run import run, verify
from taskgraph_dnn.cli.timeline import timeline
from taskgraph_dnn.errors import TaskgraphError


class _Group(click.Group):
    """A group that turns our errors, and those of the machine, into one line and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TaskgraphError as error:
            raise click.ClickException(str(error)) from error
        except MemoryError as error:
            raise click.ClickException(f"out of memory: {error}") from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # click ends quietly when nobody reads any more
                raise
            raise click.ClickException(str(error)) from error


@click.group("taskgraph-dnn", cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(taskgraph_dnn.__version__, prog_name="taskgraph-dnn")
def main() -> None:
    """Inference for large sparse neural networks as a Dask task graph."""


for command in (
    *(run, verify, plan, visualize, timeline, generate, convert, fetch, challenge, bench, info),
    *(submit, status, result, cancel),
):
    main.add_command(command)
