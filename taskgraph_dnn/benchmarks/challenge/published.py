"""Published times of the Graph Challenge, to stand beside measured ones."""

from dataclasses import dataclass

from taskgraph_dnn import challenge

#: What a system is called, on which hardware, and where its times were published.
SYSTEMS = {
    "SNIG, 1 GPU": "SNIG (Lin and Huang, IEEE HPEC 2020), one NVIDIA RTX 2080 Ti",
    "SNIG, 4 GPUs": "SNIG, four NVIDIA RTX 2080 Ti",
    "GraphBLAS": "SuiteSparse:GraphBLAS (Davis et al., IEEE HPEC 2019), 20 CPU cores",
    "SNICIT": "SNICIT (Jiang et al., ICPP 2023), one NVIDIA A6000, the weights on the GPU already; the best of one GPU",
}


@dataclass(frozen=True)
class Published:
    """Seconds of inference for 60,000 images, in the order of `SYSTEMS`; of one configuration."""

    snig: float
    snig_on_4: float
    graphblas: float
    snicit: float

    @property
    def seconds(self) -> tuple[float, ...]:
        """All of them, in the order of `SYSTEMS`."""
        return self.snig, self.snig_on_4, self.graphblas, self.snicit


#: By neurons and layers, as far as all systems published them.
PUBLISHED = {
    (1024, 120): Published(0.80, 0.19, 1.43, 0.013),
    (1024, 1920): Published(5.3, 1.7, 14.6, 0.073),
    (4096, 120): Published(1.6, 0.42, 6.2, 0.032),
    (4096, 1920): Published(17, 5.1, 84, 0.089),
    (16384, 120): Published(4.4, 1.3, 35, 0.11),
    (16384, 1920): Published(54, 15, 505, 0.18),
    (65536, 120): Published(14.8, 4.4, 229, 0.46),
    (65536, 1920): Published(162, 43, 3517, 0.69),
}


def published_rates(neurons: int, layers: int) -> tuple[float, ...] | None:
    """Return the published edges a second (60,000 images x edges / seconds), in the order of `SYSTEMS`, or None."""
    found = PUBLISHED.get((neurons, layers))
    if found is None:
        return None
    edges = challenge.OFFICIAL_SAMPLES * challenge.EDGES_PER_NEURON * neurons * layers
    return tuple(edges / seconds for seconds in found.seconds)
