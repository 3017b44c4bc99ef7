"""Score a folder of Parquet files on a cluster, and write the answers as Parquet; no file is read by this process.

    python parquet.py

Needs pyarrow and pandas.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from distributed import Client, LocalCluster

import taskgraph_dnn as tg

FILES, ROWS, FEATURES = 8, 5_000, 64
LOOPBACK = {"host": "127.0.0.1", "dashboard_address": None}  # nobody else reaches the cluster


def write_samples(folder):
    """Write the samples as somebody else's pipeline would have left them."""
    folder.mkdir(exist_ok=True)
    for number in range(FILES):
        rows = np.random.default_rng(number).random((ROWS, FEATURES), np.float32)
        columns = [f"feature{column}" for column in range(FEATURES)]
        pd.DataFrame(rows, columns=columns).to_parquet(folder / f"part{number}.parquet")


def network():
    """Return a perceptron of which one weight in ten is left."""
    rng = np.random.default_rng(0)

    def layer(inputs, outputs, activation):
        weights = rng.standard_normal((inputs, outputs)) * (rng.random((inputs, outputs)) < 0.1)
        return tg.Layer(weights, bias=0.05, activation=activation)

    return tg.Network([layer(FEATURES, 512, "relu"), layer(512, 512, "relu"), layer(512, 10, "softmax")])


def main():
    """Write samples, and score them."""
    write_samples(Path("samples"))
    tg.write_packed(network(), "network.safetensors")
    model = tg.read_network("network.safetensors")

    with LocalCluster(n_workers=2, threads_per_worker=1, **LOOPBACK) as cluster, Client(cluster):
        inference = tg.infer(model, "samples/*.parquet")
        print(f"{inference.plan.samples:,} samples in {len(inference.plan.partitions)} partitions")
        print("samples by label:", np.bincount(inference.compute().labels, minlength=10))
        written = tg.predict(model, "samples/*.parquet", "answers.parquet", labels=True, top=3)
        print(pd.read_parquet(written.path).head())


if __name__ == "__main__":
    main()
