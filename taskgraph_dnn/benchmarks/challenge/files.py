"""The challenge's networks and images in a folder: made once, from the official files or from a seed, and kept."""

import re
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse

from taskgraph_dnn import challenge
from taskgraph_dnn.errors import FileError
from taskgraph_dnn.io import convert_network, read_images, read_packed, write_packed_layers
from taskgraph_dnn.io.atomic import atomic_path, require_space
from taskgraph_dnn.io.download import Stage
from taskgraph_dnn.io.fetch import ChallengeFiles, cached_challenge_files
from taskgraph_dnn.network import Network, index_dtype
from taskgraph_dnn.synthetic import digit_images, radixnet_layers

#: Of a packed network, for each neuron of a layer: 32 numbers of 4 bytes, and what is known of them. As measured.
_NETWORK_NBYTES = 144
#: The part of the pixels that is set, rounded up; what one takes in a file, in memory, and where images are made.
_INK, _FILE_NBYTES, _MEMORY_NBYTES, _MAKING_NBYTES = 0.11, 2, 8, 16
#: How the names of files end that were made from official ones.
_OFFICIAL = "official"
#: What a run needs besides images and weights.
_RUN_NBYTES = 2**30


@dataclass(frozen=True)
class Size:
    """Networks of one width, with their images.

    Attributes:
        neurons: of each layer.
        layers: of the deepest network that is asked for.
        samples: images.
        seed: of what is made.
        folder: where what is made is kept.
        official: folders where the official files may be.
    """

    neurons: int
    layers: int
    samples: int
    seed: int
    folder: Path
    official: tuple[Path, ...]

    def official_files(self, layers: int | None = None) -> ChallengeFiles:
        """Return the official files that are there; categories only where `layers` says of which depth."""
        found = [
            cached_challenge_files(self.neurons, layers or challenge.OFFICIAL_LAYERS[0], folder)
            for folder in self.official
            if self.neurons in challenge.OFFICIAL_NEURONS and layers in (None, *challenge.OFFICIAL_LAYERS)
        ]
        return ChallengeFiles(
            next((files.network for files in found if files.network), None),
            next((files.images for files in found if files.images), None),
            next((files.categories for files in found if files.categories), None) if layers else None,
        )

    @property
    def network(self) -> Path | None:
        """The packed network of at least so many layers, or None; the smallest one, if there are several."""
        source = self._source(self.official_files().network)
        return _kept(self.folder, rf"network-{self.neurons}x(\d+)-{source}\.safetensors", self.layers)

    @property
    def images(self) -> Path | None:
        """The file of at least so many images, or None."""
        source = self._source(self.official_files().images)
        return _kept(self.folder, rf"images-{self.neurons}-(\d+)-{source}\.npz", self.samples)

    @property
    def missing_nbytes(self) -> int:
        """About how many bytes must be written before all is there."""
        network = 0 if self.network else _NETWORK_NBYTES * self.neurons * self.layers
        return network + (0 if self.images else int(_FILE_NBYTES * self._pixels))

    @property
    def memory_nbytes(self) -> int:
        """About how many bytes of memory a run needs: images, weights as far as they are kept, and activations."""
        weights = min(_NETWORK_NBYTES * self.neurons * self.layers, 2**32)
        making = 0.0 if self.images else _MAKING_NBYTES * self._pixels
        return int(max((_MEMORY_NBYTES + _FILE_NBYTES) * self._pixels + weights, making)) + _RUN_NBYTES

    @property
    def _pixels(self) -> float:
        return _INK * self.neurons * self.samples

    def _source(self, official: Path | None) -> str:
        return _OFFICIAL if official else f"seed{self.seed}"

    def make(self, stage: Stage) -> "Stored":
        """Make what is missing.

        Raises:
            FileError: an official file is damaged or too small, or a file cannot be written.
        """
        return Stored(*self._make_network(stage), *self._make_images(stage))

    def _make_network(self, stage: Stage) -> tuple[Path, float | None]:
        if self.network:
            with stage("Check"), _replaceable():
                read_packed(self.network, self.layers, verify=True)
            return self.network, None
        start = time.perf_counter()
        official = self.official_files().network
        source = self._source(official)
        target = self.folder / f"network-{self.neurons}x{self.layers}-{source}.safetensors"
        with stage("Convert" if official else "Generate") as report:
            if official:
                convert_network(official, target, neurons=self.neurons, layers=self.layers, progress=report)
            else:
                layers = radixnet_layers(self.neurons, self.layers, seed=self.seed)
                write_packed_layers(enumerate(layers), target, self.layers, progress=report)
        return target, time.perf_counter() - start

    def _make_images(self, stage: Stage) -> tuple[Path, float | None]:
        if self.images:
            return self.images, None
        start = time.perf_counter()
        official = self.official_files().images
        with stage("Images") as report:
            if official:
                images = read_images(official, self.neurons)
                _check_images(images, official, self.samples)
            else:
                images = digit_images(self.samples, self.neurons, seed=self.seed, progress=report)
        target = self.folder / f"images-{self.neurons}-{images.shape[0]}-{self._source(official)}.npz"
        _write_images(images, target)
        return target, time.perf_counter() - start

    def open_network(self, path: Path, layers: int) -> Network:
        """Open the first layers of a packed network.

        Raises:
            FileError: it is damaged, or not what its name says.
        """
        with _replaceable():
            network = read_packed(path, layers)
        if network.inputs != self.neurons:
            raise FileError(
                f"{path} has {network.inputs} neurons, expected {self.neurons}: it is not what its name says"
            )
        return network


@dataclass(frozen=True)
class Stored:
    """The files of a width: the packed network, the images, and the seconds of making each, None if it was there."""

    network: Path
    network_seconds: float | None
    images: Path
    images_seconds: float | None

    @property
    def official_network(self) -> bool:
        """Whether the network is the challenge's own."""
        return self.network.stem.endswith(_OFFICIAL)

    @property
    def official_images(self) -> bool:
        """Whether the images are the challenge's own."""
        return self.images.stem.endswith(_OFFICIAL)


def require_room(sizes: Sequence[Size]) -> None:
    """Check that the disk has room for all that is missing, and make the folders.

    Raises:
        FileError: it has not; or a folder cannot be made.
    """
    for folder in {size.folder for size in sizes}:
        missing = sum(size.missing_nbytes for size in sizes if size.folder == folder)
        require_space(folder, missing, "networks and images")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"cannot make the folder {folder}: {error}") from error


@contextmanager
def _replaceable() -> Iterator[None]:
    """Say of damage to a file that was kept that it can be made again."""
    try:
        yield
    except FileError as error:
        raise FileError(f"{error}; delete the file, and it will be made again") from error


def _kept(folder: Path, pattern: str, at_least: int) -> Path | None:
    """Return the file whose name says the least number that is enough."""
    if not folder.is_dir():
        return None
    matches = (re.fullmatch(pattern, file.name) for file in folder.iterdir())
    enough = [(int(match[1]), match[0]) for match in matches if match and int(match[1]) >= at_least]
    return folder / min(enough)[1] if enough else None


def _check_images(images: scipy.sparse.csr_array, path: Path, samples: int) -> None:
    if images.shape[0] < samples:
        raise FileError(f"{path} has {images.shape[0]:,} images, expected {samples:,}")
    if (images.data != 1).any():
        raise FileError(f"{path} has the pixel {images.data[images.data != 1][0]:g}, expected only 1")


def _write_images(images: scipy.sparse.csr_array, path: Path) -> None:
    """Write images whose pixels are all 1."""
    columns = images.indices.astype(np.uint16 if images.shape[1] <= 2**16 else np.int32)
    require_space(path.parent, columns.nbytes + images.indptr.nbytes, str(path))
    with atomic_path(path) as draft:
        np.savez(draft, shape=np.array(images.shape), indptr=images.indptr, columns=columns)


def read_stored_images(path: Path, samples: int, neurons: int) -> scipy.sparse.csr_array:
    """Read the first images of a file that `Size.make` made, CSR, float32.

    Raises:
        FileError: the file is damaged, or is not what its name says.
    """
    try:
        with path.open("rb") as file, np.load(file) as stored:
            shape, indptr, columns = tuple(stored["shape"].tolist()), stored["indptr"], stored["columns"]
    except (OSError, TypeError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(f"cannot read {path} as images: {error}; delete the file, and it will be made again") from error
    if len(shape) != 2 or shape[0] < samples or shape[1] != neurons or indptr.shape != (shape[0] + 1,):
        raise FileError(f"{path} has images of shape {shape}, expected at least {samples} x {neurons}")
    indptr = indptr[: samples + 1]
    sound = indptr[0] == 0 and (np.diff(indptr) >= 0).all() and indptr[-1] <= columns.size
    if not sound or columns.max(initial=0) >= neurons:
        raise FileError(f"{path} has pixels out of range, expected {neurons} an image")
    pixels = int(indptr[-1])
    dtype = index_dtype((samples, neurons), pixels)
    data = np.ones(pixels, np.float32)
    images = scipy.sparse.csr_array(
        (data, columns[:pixels].astype(dtype), indptr.astype(dtype)), shape=(samples, neurons), copy=False
    )
    images.has_canonical_format = True
    return images
