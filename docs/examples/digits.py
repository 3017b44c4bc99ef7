"""Prune a trained network to a tenth of its weights, in one shot and by steps, and score many digits with it.

    python digits.py [--samples 100000]

Needs scikit-learn; with onnx the network that was pruned by steps is written as ONNX, too.
"""

import argparse
import time
import warnings
from copy import deepcopy
from importlib.util import find_spec

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import taskgraph_dnn as tg

PRUNED = 0.9  # which part of the weights goes
TRAINING = 12  # epochs, before anything is pruned
STEPS, EPOCHS = 6, 5  # of pruning, and of training after each of them
LOOPBACK = {"host": "127.0.0.1", "dashboard_address": None}  # nobody else reaches the cluster


def trained(pixels, digits):
    """Return a dense perceptron."""
    model = MLPClassifier((1024, 1024, 1024), random_state=0)
    for _ in range(TRAINING):
        model.partial_fit(pixels, digits, classes=np.unique(digits))
    return model


def prune(model, part):
    """Set the smallest weights of each layer to 0, so that this part of them is, and return which ones are left."""
    masks = [np.abs(weights) > np.quantile(np.abs(weights), part) for weights in model.coefs_]
    keep(model, masks)
    return masks


def keep(model, masks):
    """Set the weights that are not left to 0."""
    for weights, mask in zip(model.coefs_, masks, strict=True):
        weights *= mask


def prune_by_steps(model, pixels, digits):
    """Prune a little more each time, and train what is left."""
    for step in range(1, STEPS + 1):
        masks = prune(model, PRUNED * (1 - (1 - step / STEPS) ** 3))  # Zhu and Gupta, 2017: most of it at first
        for _ in range(EPOCHS):
            model.partial_fit(pixels, digits)
            keep(model, masks)


def augmented(pixels, digits, samples):
    """Return so many digits, darker or brighter and with noise, as a Dask array, and which digits they are.

    The workers draw them, chunk by chunk.
    """
    chosen = np.random.default_rng(1).integers(0, len(pixels), samples)

    def draw(numbers, block_info=None):
        rng = np.random.default_rng(block_info[0]["chunk-location"][0])
        images = pixels[numbers[:, 0]] * rng.uniform(0.7, 1.2, (len(numbers), 1))
        return (images + rng.normal(0, 0.1, images.shape)).astype(np.float32)

    numbers = da.from_array(chosen[:, None], chunks=(10_000, 1))
    return numbers.map_blocks(draw, dtype=np.float32, chunks=(numbers.chunks[0], (64,))), digits[chosen]


def timed(work):
    """Return the answer, and the seconds that it took; the first time, which compiles, does not count."""
    work()
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def main():
    """Prune, score and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100_000, help="digits to score")
    samples = parser.parse_args().samples
    warnings.filterwarnings("error", "Training interrupted")  # after Ctrl-C scikit-learn would only say so, and go on

    pixels, digits = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    train, test, train_digits, test_digits = train_test_split(pixels, digits, random_state=0)
    dense = trained(train, train_digits)
    at_once, by_steps = deepcopy(dense), deepcopy(dense)
    prune(at_once, PRUNED)
    prune_by_steps(by_steps, train, train_digits)

    network = tg.from_sklearn(by_steps)
    tg.write_packed(network, "digits.safetensors")
    if find_spec("onnx"):
        tg.write_onnx(network, "digits.onnx")

    with LocalCluster(n_workers=2, threads_per_worker=1, **LOOPBACK) as cluster, Client(cluster) as client:
        lazy, expected = augmented(test, test_digits, samples)
        batch = lazy.persist()
        scattered = client.scatter(dense, broadcast=True)
        print(f"{'':24} {'weights':>9} {'accuracy':>9} {'seconds':>8}")
        blocks, predicted = batch.to_delayed()[:, 0], dask.delayed(MLPClassifier.predict)
        found, seconds = timed(lambda: dask.compute([predicted(scattered, block) for block in blocks])[0])
        show("dense, in scikit-learn", dense, np.mean(np.concatenate(found) == expected), seconds)
        for name, model in (("pruned in one shot", at_once), ("pruned by steps", by_steps)):
            inference = tg.infer(tg.from_sklearn(model), batch)
            result, seconds = timed(inference.compute)
            show(name, model, np.mean(result.labels == expected), seconds)


def show(name, model, accuracy, seconds):
    """Print a line of the table."""
    weights = sum(np.count_nonzero(weights) for weights in model.coefs_)
    print(f"{name:24} {weights:9,} {accuracy:9.1%} {seconds:8.2f}")


if __name__ == "__main__":
    main()
