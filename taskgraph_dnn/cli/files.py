"""`generate` and `convert`: files made from networks."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from taskgraph_dnn import challenge
from taskgraph_dnn.activation_functions import ACTIVATIONS
from taskgraph_dnn.cli.job import SYNTHETIC, job_options, load_images, load_network
from taskgraph_dnn.cli.terminal import progress
from taskgraph_dnn.config import Job
from taskgraph_dnn.errors import FileError
from taskgraph_dnn.io import (
    TARGETS,
    convert_network,
    read_network,
    write_challenge_images,
    write_challenge_layers,
    write_packed_layers,
    write_state_dict,
)
from taskgraph_dnn.io.atomic import check_new_folder, check_writable
from taskgraph_dnn.network import Layer
from taskgraph_dnn.synthetic import radixnet_layers

_PATH = click.Path(path_type=Path)


@click.command()
@job_options(SYNTHETIC)
@click.option("--output", type=_PATH, required=True, help="Folder to write to; made if need be.")
@click.option("--packed", is_flag=True, help="Write the network as a packed file, neuronN.safetensors.")
def generate(job: Job, output: Path, packed: bool) -> None:
    """Write a synthetic network and images in the challenge's official layout.

    The network goes to OUTPUT/neuronN/nN-l*.tsv, the images to OUTPUT/sparse-images-N.tsv.gz.
    """
    layers, neurons, count = _layers(job)
    target = output / f"neuron{neurons}{'.safetensors' * packed}"
    images_file = output / f"sparse-images-{neurons}.tsv.gz"
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {output}: {error}") from error
    if not packed:
        check_new_folder(target)
    for file in (target, images_file) if packed else (images_file,):
        if check_writable(file).exists():
            raise FileError(f"cannot write {file}: it exists already")
    images = load_images(job, neurons)
    with progress("Network") as report:
        if packed:
            write_packed_layers(enumerate(layers), target, count, progress=report)
        else:
            write_challenge_layers(layers, target, count, progress=report)
    write_challenge_images(images, images_file)
    click.echo(f"{target}: {count:,} layers")
    click.echo(f"{images_file}: {images.shape[0]:,} images, {images.nnz:,} pixels")


def _layers(job: Job) -> tuple[Iterable[Layer], int, int]:
    """Return the job's layers, each made when it is asked for, their neurons, and how many there are."""
    if job.network is not None:
        network = load_network(job)
        return network, network.inputs, len(network)
    neurons = challenge.OFFICIAL_NEURONS[0] if job.neurons is None else job.neurons
    layers = challenge.OFFICIAL_LAYERS[0] if job.layers is None else job.layers
    return radixnet_layers(neurons, layers, seed=job.seed, bias=job.bias), neurons, layers


@click.command()
@click.argument("source")
@click.argument("target", type=_PATH)
@click.option("--neurons", type=int, help="Neurons a layer, to check a file.")
@click.option("--layers", type=int, help="Layers to take; default: all.")
@click.option(
    "--bias", type=float, help="Bias of every neuron; default: the challenge's by neurons, 0 for MatrixMarket."
)
@click.option(
    "--activation", help=f"One of {', '.join(ACTIVATIONS)}; of a state dict, but for the last layer; default: relu."
)
@click.option("--cap", type=float, help="Upper bound of activations; default: the challenge's, none for MatrixMarket.")
@click.option("--state-dict", is_flag=True, help="Write the dense weights as PyTorch's state dict, TARGET.safetensors.")
@click.option("--force", is_flag=True, help="Replace TARGET if it exists.")
def convert(
    source: str,
    target: Path,
    neurons: int | None,
    layers: int | None,
    bias: float | None,
    activation: str | None,
    cap: float | None,
    state_dict: bool,
    force: bool,
) -> None:
    """Write the network in SOURCE (any format that can be read, or a URL) as TARGET.

    TARGET.safetensors is a packed file, TARGET.onnx and TARGET.npz are for other libraries.
    """
    if target.suffix not in TARGETS or (state_dict and target.suffix != ".safetensors"):
        expected = ".safetensors" if state_dict else ", ".join(TARGETS)
        raise FileError(f"{target}: the name ends in {target.suffix or 'nothing'!r}, expected {expected}")
    if check_writable(target).exists() and not force:
        raise FileError(f"{target}: exists already; --force replaces it")
    options: dict[str, Any] = {"neurons": neurons, "layers": layers, "bias": bias, "activation": activation}
    options["cap"] = ... if cap is None else cap
    with progress("Convert") as report:
        if state_dict:
            network = read_network(source, **options, progress=report)
            write_state_dict(network, target)
        else:
            network = convert_network(source, target, **options, progress=report)
    click.echo(f"{target}: {len(network):,} layers, {network.nnz:,} edges, {target.stat().st_size / 2**20:,.1f} MiB")
