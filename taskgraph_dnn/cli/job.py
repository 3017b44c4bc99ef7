"""What a command works on: a network, samples and a scheduler, from options, a configuration file and defaults."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import dask.config
import scipy.sparse
import yaml

from taskgraph_dnn import challenge
from taskgraph_dnn.cli.terminal import progress
from taskgraph_dnn.config import Job, make_job, settings
from taskgraph_dnn.data import read_rows
from taskgraph_dnn.errors import FileError
from taskgraph_dnn.executors import check_scheduler
from taskgraph_dnn.inputs import row_slice
from taskgraph_dnn.io import read_images, read_network
from taskgraph_dnn.network import Network
from taskgraph_dnn.synthetic import digit_images, radixnet

_PATH = click.Path(path_type=Path)
_OPTIONS = {
    "network": (
        str,
        "Network: .safetensors (path or URL), .onnx, .npz, .pt, folder of TSV or MatrixMarket files, or .tar.gz. "
        "Default: synthetic.",
    ),
    "neurons": (int, "Neurons a layer, of a synthetic network or to check a file."),
    "layers": (int, "Layers to run."),
    "bias": (float, "Bias of every neuron; default: the challenge's."),
    "images": (_PATH, "Images: .tsv, .mtx, .npy, .npz, .parquet, .csv or .zarr. Default: synthetic digits."),
    "samples": (int, "Images to run: the first ones of a file, or how many to make."),
    "seed": (int, "Seed of a synthetic network and images."),
    "truth": (_PATH, "Categories to compare the answer with."),
    "check": (int, "Compare this many samples with a float64 reference."),
    "scheduler": (
        str,
        "threads, processes, synchronous, a Dask scheduler's address, or its file (.json), or ssh://HOST,HOST,...",
    ),
    "checkpoint": (str, "Keep what --resume goes on from in this folder, or behind this URL."),
    "partitions": (str, 'Batch partitions: a number or "auto".'),
    "kernel": (str, 'Kernel, or "auto"; `info` lists them.'),
    "strategy": (str, "hybrid, data or pipeline."),
    "dtype": (str, "Of activations and sums: float32 or float64."),
    "reductions": (
        str,
        "Work to leave out: exact (the default), dynamic, none, or names with commas between.",
    ),
}
#: Images of the Graph Challenge and in Matrix Market: looking at them first would take as long as reading them.
_TEXTS = (".tsv", ".tsv.gz", ".mtx", ".mtx.gz")
_SETTINGS = ("partitions", "kernel", "strategy", "dtype", "reductions")

#: Options of a command that makes a network and images.
SYNTHETIC = ("neurons", "layers", "samples", "seed")
#: Options of a command that plans a run.
PLAN = ("network", "neurons", "layers", "bias", "images", "samples", "seed", "scheduler", *_SETTINGS)
#: Options of a command that runs.
RUN = (*PLAN, "truth", "check")


def job_options(names: tuple[str, ...]) -> Callable[[Any], Any]:
    """Return the decorator that gives a command these options and --config, and passes it the `Job` they make."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        def with_job(config: Path | None, **options: Any) -> Any:
            taken = {name: options.pop(name) for name in names}
            with _configured(config, {name: taken.pop(name, None) for name in _SETTINGS}):
                made = make_job(**taken)
                settings()  # a wrong setting is an error before any work
                check_scheduler(made.scheduler)
                return command(job=made, **options)

        with_job.__name__, with_job.__doc__ = command.__name__, command.__doc__
        with_job.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        with_job = click.option("--config", type=_PATH, help="YAML file with a taskgraph-dnn: section.")(with_job)
        for name in reversed(names):
            kind, text = _OPTIONS[name]
            with_job = click.option(f"--{name}", type=kind, help=text)(with_job)
        return with_job

    return decorate


resume_option = click.option("--resume", is_flag=True, help="Go on with the run that is kept at --checkpoint, if any.")


def load_network(job: Job) -> Network:
    """Read or make the job's network."""
    with progress("Network") as report:
        if job.network is not None:
            return read_network(job.network, neurons=job.neurons, layers=job.layers, bias=job.bias, progress=report)
        neurons = challenge.OFFICIAL_NEURONS[0] if job.neurons is None else job.neurons
        layers = challenge.OFFICIAL_LAYERS[0] if job.layers is None else job.layers
        return radixnet(neurons, layers, seed=job.seed, bias=job.bias, progress=report)


def load_images(job: Job, inputs: int) -> scipy.sparse.csr_array:
    """Read or make the job's images, CSR, samples x inputs."""
    with progress("Images") as report:
        if job.images is None:
            return digit_images(count_images(job), inputs, seed=job.seed, progress=report)
        images = _read_images(job.images, inputs)
    if job.samples is None:
        return images
    if job.samples > images.shape[0]:
        raise FileError(f"{job.images}: asked for {job.samples} images, but it has {images.shape[0]}")
    head = row_slice(images, 0, job.samples)
    head.read_seconds = images.read_seconds
    return head


def _read_images(path: Path, inputs: int) -> scipy.sparse.csr_array:
    if path.name.endswith(_TEXTS):
        return read_images(path, inputs)
    start = time.perf_counter()
    images = scipy.sparse.csr_array(read_rows(path, inputs))
    images.read_seconds = time.perf_counter() - start
    return images


def count_images(job: Job) -> int:
    """Return how many images the job has made, or takes from a file if that is said."""
    return challenge.OFFICIAL_SAMPLES if job.samples is None else job.samples


@contextmanager
def _configured(path: Path | None, given: dict[str, Any]) -> Iterator[None]:
    """Put a configuration file, and over it the given settings, into Dask's configuration."""
    with (
        dask.config.set(_read_yaml(path) if path else {}),
        dask.config.set({f"taskgraph-dnn.{name}": value for name, value in given.items() if value is not None}),
    ):
        yield


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise FileError(f"{path}: no readable YAML file: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("taskgraph-dnn"), dict):
        raise FileError(f"{path}: found no section taskgraph-dnn: with settings in it")
    return dict(_flat(found))


def _flat(tree: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf by its dotted path: `dask.config.set` would let a nested section replace the whole of it."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
