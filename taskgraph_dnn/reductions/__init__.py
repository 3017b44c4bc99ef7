"""Work that need not be done: what can be left out of a run without changing its answer.

`names` says which reductions there are, `static` makes a smaller network of a network, `certificates` knows what a
layer does to zeros and to saturated samples. Samples are dropped, folded and settled while a task runs: see `flow`.
"""
