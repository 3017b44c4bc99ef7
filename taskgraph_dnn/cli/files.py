"""`generate` and `convert`: files made from networks."""

from pathlib import Path

import click

from taskgraph_dnn.cli.job import Job, job_options
from taskgraph_dnn.cli.progress import progress
from taskgraph_dnn.errors import FileFormatError
from taskgraph_dnn.io import read_network, write_challenge_images, write_challenge_network, write_packed

_PATH = click.Path(path_type=Path)


@click.command()
@job_options(plan=False)
@click.option("--output", type=_PATH, required=True, help="Folder to write to; made if need be.")
def generate(job: Job, output: Path) -> None:
    """Write a synthetic network and images in the challenge's official layout.

    The network goes to OUTPUT/neuronN/nN-l*.tsv, the images to OUTPUT/sparse-images-N.tsv.gz.
    """
    if job.network is not None or job.images is not None:
        raise FileFormatError("generate makes a synthetic network and images: leave out --network and --images")
    network = job.load_network()
    images = job.load_images(network.inputs)
    folder = output / f"neuron{network.inputs}"
    output.mkdir(parents=True, exist_ok=True)
    with progress("Write") as report:
        write_challenge_network(network, folder, progress=report)
    images_file = output / f"sparse-images-{network.inputs}.tsv.gz"
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
@click.option("--force", is_flag=True, help="Replace TARGET if it exists.")
def convert(
    source: Path, target: Path, neurons: int | None, layers: int | None, bias: float | None, force: bool
) -> None:
    """Write the network in SOURCE (any format that can be read) as the packed file TARGET.safetensors."""
    if target.suffix != ".safetensors":
        raise FileFormatError(f"{target}: a packed file's name ends in .safetensors")
    if target.exists() and not force:
        raise FileFormatError(f"{target}: exists already; --force replaces it")
    with progress("Read") as report:
        network = read_network(source, neurons=neurons, layers=layers, bias=bias, progress=report)
    with progress("Write") as report:
        write_packed(network, target, progress=report)
    click.echo(f"{target}: {len(network):,} layers, {network.nnz:,} edges, {target.stat().st_size / 2**20:,.1f} MiB")
