"""`fetch`: the Graph Challenge's official files, from the internet or a mirror."""

import re
from pathlib import Path
from typing import Any

import click
import dask.config

from taskgraph_dnn import challenge
from taskgraph_dnn.cli.terminal import progress
from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.io.fetch import OFFICIAL, RemoteFile, check_space, default_cache, fetch_file, remote_files

_ALL = "all"
_KINDS = ("network", "images", "categories")
_SHA256 = re.compile(r"([^=]+)=([0-9a-fA-F]{64})")


def _official(values: tuple[int, ...]) -> click.Choice[str]:
    return click.Choice([*map(str, values), _ALL])


@click.command()
@click.option(
    "--neurons",
    type=_official(challenge.OFFICIAL_NEURONS),
    multiple=True,
    default=[str(challenge.OFFICIAL_NEURONS[0])],
    show_default=True,
    help="Size of the network; may be given several times.",
)
@click.option(
    "--layers",
    type=_official(challenge.OFFICIAL_LAYERS),
    multiple=True,
    default=[_ALL],
    show_default=True,
    help="Depth, of categories, and that a network must have at least; may be given several times.",
)
@click.option("--only", type=click.Choice(_KINDS), multiple=True, help="Only such files; may be given several times.")
@click.option("--from", "base", metavar="URL", help="Where the files are.  [default: the challenge's own address]")
@click.option("--cache", type=click.Path(path_type=Path), help="Where they go.  [default: ~/.cache/taskgraph-dnn]")
@click.option("--sha256", "digests", metavar="NAME=HEX", multiple=True, help="What the SHA-256 of a file must be.")
@click.option(
    "--retries",
    type=click.IntRange(0, 10),
    default=5,
    show_default=True,
    help="New connections, after 1, 2, 4 ... seconds, while these bring nothing.",
)
def fetch(
    neurons: tuple[str, ...],
    layers: tuple[str, ...],
    only: tuple[str, ...],
    base: str | None,
    cache: Path | None,
    digests: tuple[str, ...],
    retries: int,
) -> None:
    """Download the official networks, images and categories of the Graph Challenge.

    Goes on where an earlier download was cut off, and leaves files alone that are there already. A file gets its name
    when all of it is there and its content was checked.
    """
    files = [
        file
        for size in _chosen(neurons, challenge.OFFICIAL_NEURONS)
        for file in remote_files(size, _chosen(layers, challenge.OFFICIAL_LAYERS))
        if not only or file.kind in only
    ]
    expected = _digests(digests, files)
    source = base or _configured("from", OFFICIAL)
    folder = cache_folder(cache)
    check_space(files, folder, source)
    pauses = [2.0**number for number in range(retries)]
    for file in files:
        found = fetch_file(file, folder, source, sha256=expected.get(file.name), pauses=pauses, stage=progress)
        click.echo(f"{found.path}: {found.nbytes:,} bytes, {'downloaded' if found.fresh else 'was there already'}")


def cache_folder(given: Path | None) -> Path:
    """Return where downloaded files are: what is given, or what is configured, or the default."""
    configured = _configured("cache", "")
    return given or (Path(configured).expanduser() if configured else default_cache())


def _chosen(values: tuple[str, ...], official: tuple[int, ...]) -> list[int]:
    return [number for number in official if _ALL in values or str(number) in values]


def _digests(given: tuple[str, ...], files: list[RemoteFile]) -> dict[str, str]:
    digests = {}
    names = [file.name for file in files]
    for text in given:
        match = _SHA256.fullmatch(text)
        if match is None or match[1] not in names:
            expected = f"NAME=HEX, with 64 hexadecimal digits and one of the names {', '.join(names)}"
            raise PlanError(f"--sha256 is {text!r}, expected {expected}")
        digests[match[1]] = match[2]
    return digests


def _configured(name: str, default: str) -> str:
    """Return a setting of the section `fetch`; null is the default."""
    value: Any = dask.config.get(f"taskgraph-dnn.fetch.{name}", None)
    if value is None:
        return default
    if not isinstance(value, str) or not value:
        raise PlanError(f"fetch.{name} is {value!r}, expected a text")
    return value
