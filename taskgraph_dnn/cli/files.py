"""`generate` and `convert`: files made from networks."""

from pathlib import Path

import click

from taskgraph_dnn.activation_functions import ACTIVATIONS
from taskgraph_dnn.cli.job import SYNTHETIC, job_options, load_images, load_network
from taskgraph_dnn.cli.terminal import progress
from taskgraph_dnn.config import Job
from taskgraph_dnn.errors import FileError
from taskgraph_dnn.io import read_network, write_challenge_images, write_challenge_network, write_packed
from taskgraph_dnn.io.atomic import check_new_folder, check_writable

_PATH = click.Path(path_type=Path)


@click.command()
@job_options(SYNTHETIC)
@click.option("--output", type=_PATH, required=True, help="Folder to write to; made if need be.")
def generate(job: Job, output: Path) -> None:
    """Write a synthetic network and images in the challenge's official layout.

    The network goes to OUTPUT/neuronN/nN-l*.tsv, the images to OUTPUT/sparse-images-N.tsv.gz.
    """
    network = load_network(job)
    folder, images_file = output / f"neuron{network.inputs}", output / f"sparse-images-{network.inputs}.tsv.gz"
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {output}: {error}") from error
    check_new_folder(folder)
    check_writable(images_file)
    if images_file.exists():
        raise FileError(f"cannot write {images_file}: it exists already")
    images = load_images(job, network.inputs)
    with progress("Write") as report:
        write_challenge_network(network, folder, progress=report)
    write_challenge_images(images, images_file)
    click.echo(f"{folder}: {len(network):,} layers, {network.nnz:,} edges")
    click.echo(f"{images_file}: {images.shape[0]:,} images, {images.nnz:,} pixels")


@click.command()
@click.argument("source", type=_PATH)
@click.argument("target", type=_PATH)
@click.option("--neurons", type=int, help="Neurons a layer, to check a file.")
@click.option("--layers", type=int, help="Layers to take; default: all.")
@click.option(
    "--bias", type=float, help="Bias of every neuron; default: the challenge's by neurons, 0 for MatrixMarket."
)
@click.option("--activation", help=f"One of {', '.join(ACTIVATIONS)}; default: relu.")
@click.option("--cap", type=float, help="Upper bound of activations; default: the challenge's, none for MatrixMarket.")
@click.option("--force", is_flag=True, help="Replace TARGET if it exists.")
def convert(
    source: Path,
    target: Path,
    neurons: int | None,
    layers: int | None,
    bias: float | None,
    activation: str | None,
    cap: float | None,
    force: bool,
) -> None:
    """Write the network in SOURCE (any format that can be read) as the packed file TARGET.safetensors."""
    if target.suffix != ".safetensors":
        raise FileError(f"{target}: a packed file's name ends in .safetensors")
    if check_writable(target).exists() and not force:
        raise FileError(f"{target}: exists already; --force replaces it")
    with progress("Read") as report:
        network = read_network(
            source,
            neurons=neurons,
            layers=layers,
            bias=bias,
            activation=activation,
            cap=... if cap is None else cap,
            progress=report,
        )
    with progress("Write") as report:
        write_packed(network, target, progress=report)
    click.echo(f"{target}: {len(network):,} layers, {network.nnz:,} edges, {target.stat().st_size / 2**20:,.1f} MiB")
