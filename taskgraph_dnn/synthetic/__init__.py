"""Networks and inputs made from a seed: the challenge's own, where its files cannot be downloaded or stored."""

from taskgraph_dnn.synthetic.digits import digit_images
from taskgraph_dnn.synthetic.radixnet import radixnet, radixnet_layers

__all__ = ["digit_images", "radixnet", "radixnet_layers"]
