"""The command group: its subcommands, and how its errors reach the user."""

import errno
from importlib import import_module
from typing import Any

import click

import taskgraph_dnn
from taskgraph_dnn.errors import TaskgraphError

#: The modules beside this one, and their commands. A module is imported for its own commands and for the list of all.
_MODULES = {
    "run": ("run", "verify"),
    "look": ("plan", "visualize", "info"),
    "predict": ("predict",),
    "timeline": ("timeline",),
    "files": ("generate", "convert"),
    "fetch": ("fetch",),
    "challenge": ("challenge",),
    "bench": ("bench",),
    "jobs": ("submit", "status", "result", "cancel"),
}
_HOME = {command: module for module, commands in _MODULES.items() for command in commands}


class _Group(click.Group):
    """A group that turns our errors, and those of the machine, into one line and exit status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_HOME)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _HOME:
            return None
        command: click.Command = getattr(import_module(f"taskgraph_dnn.cli.{_HOME[cmd_name]}"), cmd_name)
        return command

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
