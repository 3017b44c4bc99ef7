"""Kernels: how one layer is computed. A kernel is two functions, and this is their registry.

    packed = kernel.pack(layer)                    once a layer and process; any object
    kernel.run(packed, inputs, outputs)            outputs[...] = activation(W^T inputs + bias), at most cap

`inputs` is float32, tiles x inputs x lanes, and `outputs` tiles x outputs x lanes (see `activations`); `run` fills all
of `outputs`, releases the GIL for most of its time, uses one thread, and adds up each output's edges in the order of
their input neurons, so a sample's bits do not depend on its neighbours.

Another package adds a kernel with an entry point in the group `taskgraph_dnn.kernels` that names a `Kernel`.
"""

from taskgraph_dnn.kernels.registry import Kernel, kernel_names, kernel_problem, load_kernel, resolve_kernel

__all__ = ["Kernel", "kernel_names", "kernel_problem", "load_kernel", "resolve_kernel"]
