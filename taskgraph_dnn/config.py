"""Settings, read through Dask's configuration (`taskgraph-dnn:` in YAML, `DASK_TASKGRAPH_DNN__...`)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import dask.config
import numpy as np
import yaml
from dask.utils import parse_bytes, parse_timedelta

from taskgraph_dnn.arguments import whole_number
from taskgraph_dnn.errors import PlanError

_NAMESPACE = "taskgraph-dnn"

#: Bytes of weights that a process keeps.
_TASK_BYTES = ("packed-bytes", "read-bytes")

#: Types that activations may have.
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Settings:
    """What a run is planned with.

    Attributes:
        partitions: number of batch partitions, or "auto".
        kernel: a kernel's name, or "auto".
        strategy: a strategy's name.
        task_seconds: a span of layers is to last about this long.
        dtype: of activations and sums: "float32" or "float64".
        reductions: work to leave out: "exact", "dynamic", "none" or names, as a text or a list.
        partition_bytes: bytes of activations that one task may hold when partitions are sized automatically.
        packed_bytes: bytes of weights, as kernels want them, that a process keeps.
        read_bytes: bytes of weights, as files hold them, that a process keeps of URLs; a quarter of it is read ahead.
    """

    partitions: int | str
    kernel: str
    strategy: str
    dtype: str
    reductions: Any
    task_seconds: float
    partition_bytes: int
    packed_bytes: int
    read_bytes: int


@dataclass(frozen=True)
class ClusterSettings:
    """How runs on a cluster are looked after.

    Attributes:
        silence: a run has failed when no task began or ended for so many seconds; infinite where it never has.
        temporary: a folder of all workers and the client, for what is in memory; None where nobody said.
        ssh_python: the Python of clusters that are started by SSH; None for the same path as here.
        ssh_threads: of each of their workers; None for one a core.
    """

    silence: float
    temporary: Path | None
    ssh_python: str | None
    ssh_threads: int | None


@dataclass(frozen=True)
class CheckpointSettings:
    """How often runs are checkpointed.

    Attributes:
        every: a partition's activations are kept after so many seconds of computing, as they are expected; 0 where they
            are kept after each span of layers, infinite where only finished partitions are.
    """

    every: float


@dataclass(frozen=True)
class Job:
    """What the command line runs: options, with the configuration's `job` section where they are not given.

    Attributes:
        network: a file, or the URL of one; None where there is none.
        images, truth: files; None where there is none.
        neurons, layers, samples: of what is made, or to check or cut what is read; None where nobody said.
        bias: of every neuron, or None.
        seed: of what is made.
        check: how many samples to compare with the float64 reference; None where nobody said.
        scheduler: where to run.
        checkpoint: a folder, or a URL, where the run is checkpointed; None where it is not.
    """

    network: str | None
    neurons: int | None
    layers: int | None
    bias: float | None
    images: Path | None
    samples: int | None
    seed: int
    truth: Path | None
    check: int | None
    scheduler: str
    checkpoint: str | None


def settings(**overrides: Any) -> Settings:
    """Return the configured settings, with every override that is not None in place of its setting.

    Raises:
        PlanError: the configuration holds a name that is no setting, or a value that none can have.
    """
    values = _section(_NAMESPACE, _defaults()[_NAMESPACE]) | _given(overrides)
    return Settings(
        partitions="auto"
        if values["partitions"] == "auto"
        else _whole("partitions", values["partitions"], 1, ' or "auto"'),
        kernel=_text("kernel", values["kernel"]),
        strategy=_text("strategy", values["strategy"]),
        dtype=_dtype(values["dtype"]),
        reductions=values["reductions"],
        task_seconds=_positive("task-seconds", values["task_seconds"], float),
        partition_bytes=_positive("partition-bytes", values["partition_bytes"], parse_bytes),
        packed_bytes=_positive("packed-bytes", values["packed_bytes"], parse_bytes),
        read_bytes=_positive("read-bytes", values["read_bytes"], parse_bytes),
    )


def task_bytes(name: str) -> int:
    """Return a setting that tasks look at where they run, one of `_TASK_BYTES`, without a look at all the others.

    Raises:
        PlanError: it has a value that none can have.
    """
    nbytes: int = _positive(name, dask.config.get(f"{_NAMESPACE}.{name}"), parse_bytes)
    return nbytes


def task_settings() -> dict[str, int]:
    """Return the settings that tasks look at where they run, by their paths, as far as they are not the defaults.

    Raises:
        PlanError: one has a value that none can have.
    """
    found = {name: task_bytes(name) for name in _TASK_BYTES}
    usual = _defaults()[_NAMESPACE]
    return {f"{_NAMESPACE}.{name}": nbytes for name, nbytes in found.items() if nbytes != parse_bytes(usual[name])}


def cluster_settings() -> ClusterSettings:
    """Return the configured settings of runs on a cluster.

    Raises:
        PlanError: the configuration holds a name that is no setting, or a value that none can have.
    """
    path = f"{_NAMESPACE}.cluster"
    values = _section(path, _defaults()[_NAMESPACE]["cluster"])

    def optional(convert: Callable[..., Any], name: str, *arguments: Any) -> Any:
        return None if values[name] is None else convert(f"{path}.{name.replace('_', '-')}", values[name], *arguments)

    return ClusterSettings(
        silence=_seconds(f"{path}.silence", values["silence"]) or math.inf,
        temporary=optional(_path, "temporary"),
        ssh_python=optional(_text, "ssh_python"),
        ssh_threads=optional(_whole, "ssh_threads", 1),
    )


def checkpoint_settings() -> CheckpointSettings:
    """Return the configured settings of checkpoints.

    Raises:
        PlanError: the configuration holds a name that is no setting, or a value that none can have.
    """
    path = f"{_NAMESPACE}.checkpoint"
    values = _section(path, _defaults()[_NAMESPACE]["checkpoint"])
    return CheckpointSettings(every=_seconds(f"{path}.every", values["every"]))


def make_job(**overrides: Any) -> Job:
    """Return the configured job, with every override that is not None in place of its value.

    Raises:
        PlanError: the configuration holds a name that is no part of a job, or a value that none can have.
    """
    values = _section(f"{_NAMESPACE}.job", _defaults()[_NAMESPACE]["job"]) | _given(overrides)

    def optional(convert: Callable[..., Any], name: str, *arguments: Any) -> Any:
        return None if values[name] is None else convert(f"job.{name}", values[name], *arguments)

    return Job(
        network=optional(_place, "network"),
        neurons=optional(_whole, "neurons", 1),
        layers=optional(_whole, "layers", 1),
        bias=optional(_number, "bias"),
        images=optional(_path, "images"),
        samples=optional(_whole, "samples", 0),
        seed=_whole("job.seed", values["seed"], 0),
        truth=optional(_path, "truth"),
        check=optional(_whole, "check", 0),
        scheduler=_text("job.scheduler", values["scheduler"]),
        checkpoint=optional(_place, "checkpoint"),
    )


def _given(overrides: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in overrides.items() if value is not None}


def _section(path: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """Return a section of Dask's configuration over its defaults, with underscores in the names."""
    found = dask.config.get(path, {})
    if not isinstance(found, dict):
        raise PlanError(f"{path} is {found!r}, expected settings: {', '.join(defaults)}")
    known = {name.replace("-", "_"): value for name, value in defaults.items()}
    configured = {str(name).replace("-", "_"): value for name, value in found.items()}
    unknown = sorted(set(configured) - set(known))
    if unknown:
        raise PlanError(f"unknown setting {path}.{unknown[0].replace('_', '-')}, expected one of {', '.join(defaults)}")
    return known | configured


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise PlanError(f"{name} is {value!r}, expected a name")
    return value


def _dtype(value: Any) -> str:
    try:
        name = str(np.dtype(value))
    except TypeError:
        name = ""
    if name not in DTYPES:
        raise PlanError(f"dtype is {value!r}, expected one of {', '.join(DTYPES)}")
    return name


def _place(name: str, value: Any) -> str:
    """Return a path or a URL, which a `Path` cannot hold."""
    return str(value) if isinstance(value, Path) else _text(name, value)


def _path(name: str, value: Any) -> Path:
    return value if isinstance(value, Path) else Path(_text(name, value))


def _whole(name: str, value: Any, at_least: int, alternative: str = "") -> int:
    return whole_number(name, value, at_least, PlanError, text=True, alternative=alternative)


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise PlanError(f"{name} is {value!r}, expected a finite number")
    return number


def _positive(name: str, value: Any, convert: Callable[[Any], Any]) -> Any:
    try:
        number = convert(value)
    except (TypeError, ValueError, OverflowError):
        number = 0
    if not (number > 0 and math.isfinite(number)):
        raise PlanError(f"{name} is {value!r}, expected a number above 0")
    return number


def _seconds(name: str, value: Any) -> float:
    """Return a time in seconds; nothing stands for ever."""
    try:
        seconds = math.inf if value is None else float(parse_timedelta(value))
    except (TypeError, ValueError, LookupError, AttributeError):
        seconds = -1.0
    if not (seconds >= 0 and (value is None or math.isfinite(seconds))):
        raise PlanError(f"{name} is {value!r}, expected a time like 10 minutes or 30s, or null")
    return seconds


@cache
def _defaults() -> dict[str, Any]:
    text = files("taskgraph_dnn").joinpath("taskgraph-dnn.yaml").read_text(encoding="utf-8")
    defaults: dict[str, Any] = yaml.safe_load(text)
    return defaults


dask.config.update_defaults(_defaults())
