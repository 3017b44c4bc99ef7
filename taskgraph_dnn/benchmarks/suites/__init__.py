"""The benchmarks, one module each; `SUITES` has them by name, in the order in which they run."""

from taskgraph_dnn.benchmarks.suite import Suite
from taskgraph_dnn.benchmarks.suites.ceilings import CEILINGS

#: Ceilings come first: what the others reach is told as a part of them.
SUITES: dict[str, Suite] = {suite.name: suite for suite in (CEILINGS,)}
