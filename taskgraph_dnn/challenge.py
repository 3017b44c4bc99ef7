"""Constants of the MIT/IEEE/Amazon Sparse DNN Graph Challenge (Kepner et al., IEEE HPEC 2019).

The challenge adds its bias only where Y W is nonzero. All its biases are negative, so that is the same as adding it to
every output, as this package (and any neural network library) does.
"""

import math

#: Every activation is clipped to this.
CAP = 32.0
#: Edges that enter, and that leave, each neuron of an official network.
EDGES_PER_NEURON = 32
#: The weight of every edge.
WEIGHT = 1.0 / 16.0
#: Neurons a layer of the official networks.
OFFICIAL_NEURONS = (1024, 4096, 16384, 65536)
#: Depths of the official networks.
OFFICIAL_LAYERS = (120, 480, 1920)
#: Input images of the official data set.
OFFICIAL_SAMPLES = 60_000


def bias(neurons: int) -> float:
    """Return the bias of a network with `neurons` neurons a layer.

    The official ones are -0.3, -0.35, -0.4 and -0.45 for 1,024, 4,096, 16,384 and 65,536 neurons: 0.05 less for four
    times the neurons. Other sizes follow the same line.
    """
    return round(-0.3 - 0.05 * math.log(neurons / 1024, 4), 6)
