"""What a command works on: a network, samples and a scheduler, from options, a configuration file and defaults."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import dask.config
import scipy.sparse
import yaml

from taskgraph_dnn.cli.progress import progress
from taskgraph_dnn.config import job_defaults, settings
from taskgraph_dnn.errors import FileFormatError, PlanError
from taskgraph_dnn.inputs import row_slice
from taskgraph_dnn.io import read_categories, read_images, read_network
from taskgraph_dnn.network import Network
from taskgraph_dnn.synthetic import digit_images, radixnet

_FILE = click.Path(path_type=Path)

_NETWORK = [
    click.option(
        "--network", type=_FILE, help="Network: a folder of TSV or MatrixMarket files, .tar.gz, .safetensors."
    ),
    click.option("--neurons", type=int, help="Neurons a layer (of a synthetic network, or to check a file)."),
    click.option("--layers", type=int, help="Layers to run."),
    click.option("--bias", type=float, help="Bias of every neuron; default: the challenge's."),
    click.option("--seed", type=int, help="Seed of a synthetic network and images."),
]
_SAMPLES = [
    click.option("--images", type=_FILE, help="Images: .tsv, .tsv.gz or .mtx. Default: synthetic digits."),
    click.option("--samples", type=int, help="Images to run: the first ones of a file, or how many to make."),
]
_PLAN = [
    click.option("--partitions", help='Batch partitions: a number or "auto".'),
    click.option("--kernel", help='Kernel, or "auto"; `info` lists them.'),
    click.option("--strategy", help="hybrid or data."),
    click.option("--scheduler", help="threads, processes, synchronous, or a Dask scheduler's address."),
    click.option("--config", type=_FILE, help="YAML file with a taskgraph-dnn: section."),
]
_SETTINGS = ("partitions", "kernel", "strategy")


@dataclass(frozen=True)
class Job:
    """Options of a run with all defaults filled in; names as in the configuration's `job` section."""

    network: Path | None
    neurons: int | None
    layers: int | None
    bias: float | None
    images: Path | None
    samples: int | None
    seed: int
    truth: Path | None
    check: int
    scheduler: str

    def load_network(self) -> Network:
        """Read or make the network."""
        with progress("Network") as report:
            if self.network is not None:
                return read_network(
                    self.network, neurons=self.neurons, layers=self.layers, bias=self.bias, progress=report
                )
            if self.neurons is None or self.layers is None:
                raise PlanError("a synthetic network needs --neurons and --layers")
            return radixnet(self.neurons, self.layers, seed=self.seed, bias=self.bias, progress=report)

    def load_images(self, inputs: int) -> scipy.sparse.csr_array:
        """Read or make the images, CSR, samples x inputs."""
        with progress("Images") as report:
            if self.images is None:
                if self.samples is None:
                    raise PlanError("synthetic images need --samples")
                return digit_images(self.samples, inputs, seed=self.seed, progress=report)
            images = read_images(self.images, inputs)
        if self.samples is None or self.samples == images.shape[0]:
            return images
        if not 0 <= self.samples <= images.shape[0]:
            raise FileFormatError(f"{self.images}: asked for {self.samples} images, but it has {images.shape[0]}")
        head = row_slice(images, 0, self.samples)
        head.read_seconds = images.read_seconds
        return head

    def load_truth(self) -> Any:
        """Read the categories to compare with, or return None."""
        return None if self.truth is None else read_categories(self.truth)


def job_options(*, samples: bool = True, plan: bool = True) -> Callable[[Any], Any]:
    """Return the decorator that gives a command its options and passes it a `Job` made from them."""
    chosen = _NETWORK + (_SAMPLES if samples else []) + (_PLAN if plan else [])

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        def with_job(**options: Any) -> Any:
            with _configured(options):
                return command(job=_job(options), **options)

        with_job.__name__, with_job.__doc__ = command.__name__, command.__doc__
        with_job.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        for option in reversed(chosen):
            with_job = option(with_job)
        return with_job

    return decorate


@contextmanager
def _configured(options: dict[str, Any]) -> Iterator[None]:
    """Take the plan's options out and put them, over the configuration file, into Dask's configuration."""
    path = options.pop("config", None)
    given = {f"taskgraph-dnn.{name}": options.pop(name, None) for name in _SETTINGS}
    with (
        dask.config.set(_read_yaml(path) if path else {}),
        dask.config.set({name: value for name, value in given.items() if value is not None}),
    ):
        settings()  # a wrong setting is an error before any work
        yield


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FileFormatError(f"{path}: no readable YAML file: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("taskgraph-dnn"), dict):
        raise FileFormatError(f"{path}: found no section taskgraph-dnn: with settings in it")
    return dict(_flat(found))


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf by its dotted path: `dask.config.set` would let a nested section replace the whole of it."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _job(options: dict[str, Any]) -> Job:
    """Take the job's options out, with the configuration's where they are not given."""
    merged = job_defaults()
    given = {name: options.pop(name) for name in list(options) if name in merged}
    merged |= {name: value for name, value in given.items() if value is not None}
    # Defaults that describe a synthetic job say nothing of a file.
    for source, described in (("network", ("neurons", "layers")), ("images", ("samples",))):
        if given.get(source) is not None:
            merged |= {name: given.get(name) for name in described}
    for name in ("network", "images", "truth"):
        merged[name] = None if merged[name] is None else Path(merged[name])
    return Job(**merged)
