"""The benchmarks, one module each; `SUITES` has them by name, in the order in which they run."""

from taskgraph_dnn.benchmarks.suite import Suite
from taskgraph_dnn.benchmarks.suites.ceilings import CEILINGS
from taskgraph_dnn.benchmarks.suites.end_to_end import END_TO_END
from taskgraph_dnn.benchmarks.suites.growth import GROWTH
from taskgraph_dnn.benchmarks.suites.kernels import KERNELS
from taskgraph_dnn.benchmarks.suites.latency import LATENCY
from taskgraph_dnn.benchmarks.suites.memory import MEMORY
from taskgraph_dnn.benchmarks.suites.reading import READING
from taskgraph_dnn.benchmarks.suites.reductions import REDUCTIONS
from taskgraph_dnn.benchmarks.suites.scaling import SCALING
from taskgraph_dnn.benchmarks.suites.scheduling import SCHEDULING
from taskgraph_dnn.benchmarks.suites.startup import STARTUP

_ALL = (CEILINGS, KERNELS, END_TO_END, LATENCY, REDUCTIONS, GROWTH, MEMORY, SCHEDULING, SCALING, READING, STARTUP)

#: Ceilings come first: what the others reach is told as a part of them.
SUITES: dict[str, Suite] = {suite.name: suite for suite in _ALL}
