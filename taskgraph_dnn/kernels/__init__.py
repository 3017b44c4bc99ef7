"""Kernels: how one layer is computed. A kernel is a storage format and the code that works on it; see `registry`.

    packed = kernel.pack(layer, dtype)                    once a layer, type and process; any object
    kernel.run(packed, inputs, outputs, alive)            outputs[...] = min(activation(W^T inputs + bias), cap)

`inputs` is tiles x inputs x lanes, `outputs` tiles x outputs x lanes (see `activations`), float32 or float64; `run`
fills all of `outputs` and `alive`, releases the GIL for most of its time, uses one thread, and adds up each output's
edges in an order of its own that never changes, so a sample's bits do not depend on its neighbours or its place. An
edge that is not there contributes nothing, even where its input is infinite.

Another package adds a kernel with an entry point in the group `taskgraph_dnn.kernels` that names a `Kernel`.
"""

from taskgraph_dnn.kernels.registry import Kernel, at_rate, automatic_kernels, kernel_names, kernel_problem, load_kernel

__all__ = ["Kernel", "at_rate", "automatic_kernels", "kernel_names", "kernel_problem", "load_kernel"]
