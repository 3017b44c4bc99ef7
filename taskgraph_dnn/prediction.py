"""`predict`: samples in, files out. Workers write the parts that they compute; nothing is gathered on the client.

    .predict-NAME                   beside the output; a checkpoint (see `checkpoints`) of the run, and besides it:
      places.npy                    for each output its column, where the static reductions have moved some
      versions.json                 for each partition what changes with the files that its samples are in
      part-00012.parquet            what was asked for of the samples of partition 12
      part-00012.sha256             what that file must hash to; written behind it

A part without the file behind it, or with another content, or of samples that have changed, is made again. The output
appears when all parts are there.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import dask
import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn import executors
from taskgraph_dnn.arguments import whole_number
from taskgraph_dnn.checkpoints import Attempt, Checkpoint, begin
from taskgraph_dnn.config import settings
from taskgraph_dnn.data import StoredSamples, open_samples
from taskgraph_dnn.data.files import path_here
from taskgraph_dnn.data.sinks import Sink, Table, sink_of
from taskgraph_dnn.errors import CheckpointError, FileError, InputError, PlanError
from taskgraph_dnn.events import TaskEvent
from taskgraph_dnn.flow import Span
from taskgraph_dnn.inference import planned
from taskgraph_dnn.io.atomic import atomic_path, check_writable, flush, write_text
from taskgraph_dnn.io.streams import Progress
from taskgraph_dnn.network import Network
from taskgraph_dnn.plan import Plan
from taskgraph_dnn.result import Result, Seconds, scores_of
from taskgraph_dnn.scores import Scores
from taskgraph_dnn.spans import Finished, Progressed

_PLACES, _VERSIONS = "places.npy", "versions.json"


@dataclass(frozen=True)
class Asked:
    """What is written of each sample: all outputs, its label, the `top` largest outputs and their numbers."""

    outputs: bool
    labels: bool
    top: int | None

    @classmethod
    def of(cls, network: Network, outputs: bool, labels: bool, top: int | None) -> "Asked":
        """Return what was asked for: all outputs, where nobody said."""
        if top is not None and whole_number("top", top, 1, PlanError) > network.outputs:
            raise PlanError(f"top is {top}, but the network has {network.outputs} outputs")
        return cls(outputs or not (labels or top), labels, top)

    def table(self, scores: Scores) -> Table:
        """Return it, of these samples."""
        table: dict[str, NDArray[Any]] = {"labels": scores.labels} if self.labels else {}
        if self.top:
            table |= scores.top(self.top)._asdict()
        return table | ({"outputs": scores.dense()} if self.outputs else {})


@dataclass(frozen=True)
class Parts(Checkpoint):
    """A checkpoint that keeps of finished partitions what was asked for, as files; and nothing on their way."""

    suffix: str
    asked: Asked

    def keep(self, after: Progressed | Finished, span: Span, replaced: int | None) -> Progressed | Finished:
        """Write what was asked for of a finished partition; return it without its rows, which nobody needs any more.

        Raises:
            CheckpointError: it cannot be written, because the disk is full, for example.
        """
        assert isinstance(after, Finished)
        width, dtype = after.outputs.shape[1], after.outputs.dtype
        first, stop = span.first_sample, span.first_sample + after.events[-1].samples
        places = Path(self.place, _PLACES)
        moved = np.load(places) if places.exists() else None
        scores = scores_of([after], first, stop, moved, width, dtype)
        try:
            self.write(span.partition, scores)
        except FileError as error:
            raise CheckpointError(f"cannot write what partition {span.partition} came to: {error}") from error
        none, pairs = np.empty(0, np.int64), np.empty((2, 0), np.int64)
        rest = replace(after, outputs=scipy.sparse.csr_array((0, width), dtype=dtype), samples=none, twins=pairs)
        return super().keep(rest, span, replaced)

    def write(self, partition: int, scores: Scores) -> None:
        """Write the part of a partition."""
        path = self.path(partition)
        with atomic_path(path) as draft:
            self.sink.write(draft, self.asked.table(scores))
        write_text(self.seal(partition), _digest(path))

    def is_whole(self, partition: int) -> bool:
        """Return whether the part of a partition is there, and is what was written."""
        path = self.path(partition)
        return path.exists() and self.seal(partition).exists() and self.seal(partition).read_text() == _digest(path)

    def path(self, partition: int) -> Path:
        """Return where the part of a partition is."""
        return Path(self.place, f"part-{partition:05}{self.sink.part_suffix}")

    def seal(self, partition: int) -> Path:
        """Return where it is said what that file must hash to."""
        return self.path(partition).with_suffix(".sha256")

    @property
    def sink(self) -> Sink:
        """What writes parts."""
        return sink_of(Path(self.suffix))


@dataclass(frozen=True)
class Predicted:
    """What was written, and what it took.

    Attributes:
        path: of the file, or the folder.
        samples: how many.
        partitions: parts that it was made of.
        resumed: how many of these an earlier attempt had made.
        seconds: as of `Result`.
        edges_per_second: as of `Result`.
    """

    path: Path
    samples: int
    partitions: int
    resumed: int
    seconds: Seconds
    edges_per_second: float


def predict(
    network: Network,
    samples: Any,
    output: str | os.PathLike[str],
    *,
    columns: Any = None,
    outputs: bool = False,
    labels: bool = False,
    top: int | None = None,
    resume: bool = False,
    partitions: int | str | None = None,
    kernel: str | None = None,
    dtype: Any = None,
    reductions: Any = None,
    scheduler: Any = None,
    progress: Progress | None = None,
) -> Predicted:
    """Run samples through a network and write what it says of them, in the samples' order.

    Each thread of a worker takes one partition at a time from its file to a file, so what all of them hold at once is
    as many partitions as there are threads, however large the input is. Where the run ends early, what is finished
    stays in a folder beside the output, whose name begins with `.predict-`.

    Args:
        network: what to run.
        samples: as of `infer`.
        output: .parquet (a folder with a file for each partition), .csv, .npz (arrays `outputs`, `labels`, `values` and
            `indices`, as far as they were asked for) or .zarr (a group of these); a path that all workers see, or a
            file:// URL.
        columns: of files of samples, as of `read_samples`.
        outputs: write all outputs; this is what is written where nothing else is asked for.
        labels: write the number of each sample's largest output; see `Result.labels`.
        top: write the values and numbers of so many largest outputs; see `Result.top`.
        resume: go on with what an earlier run has left, if any.
        partitions: as of `infer`.
        kernel: as of `infer`.
        dtype: as of `infer`.
        reductions: as of `infer`.
        scheduler: as of Dask's `compute`.
        progress: called after each partition with those done and all.

    Raises:
        FileError: the output exists, is in no known format, or cannot be written; or samples cannot be read.
        CheckpointError: an earlier run has left something and is not to be resumed, or was another run; or a worker
            does not see the folder.
        InputError, PlanError, KernelError, MissingDependencyError, ClusterError: as of `infer` and `compute`.
    """
    if not isinstance(network, Network):
        raise InputError(f"network is a {type(network).__name__}, expected a Network")
    target = _target(output)
    asked, sink = Asked.of(network, outputs, labels, top), sink_of(target)
    chosen = settings(partitions=partitions, kernel=kernel, dtype=dtype, reductions=reductions, strategy="data")
    if isinstance(samples, str | os.PathLike):
        samples = open_samples(samples, columns=columns, inputs=network.inputs)
    elif columns is not None:
        raise InputError(f"columns are of files, but samples are a {type(samples).__name__}")
    stored = samples if isinstance(samples, StoredSamples) and not samples.format.whole else None
    keep = partial(_begin, draft_of(target), asked, sink, stored, resume)
    inference = planned(network, samples, chosen, keep, math.inf)
    parts = len(inference.plan.partitions)
    with executors.watching(inference.token, _reporter(progress, parts)):
        result = inference.compute(**({} if scheduler is None else {"scheduler": scheduler}))
    _finish(inference.expr.checkpoint, inference.expr.places, result, target)
    return Predicted(
        target,
        result.samples,
        parts,
        len(inference.expr.reached),
        result.seconds,
        result.edges_per_second,
    )


def draft_of(output: str | os.PathLike[str]) -> Path:
    """Return the folder where what is finished waits; raises as `predict` where the output cannot be one."""
    target = _path(output).resolve()
    return target.with_name(f".predict-{target.name}")


def _target(output: str | os.PathLike[str]) -> Path:
    target = _path(output)
    if target.exists():
        raise FileError(f"cannot write {target}: it exists already")
    return check_writable(target)


def _path(output: str | os.PathLike[str]) -> Path:
    path = path_here(os.fspath(output))
    if path is None:
        # Stores of objects cannot rename: somebody would see half of it, and a killed run could leave that for good.
        where = os.fspath(output)
        raise FileError(
            f"cannot write {where}: an output appears at once, so it is a path that all workers see, not a URL"
        )
    return path


def _begin(
    draft: Path,
    asked: Asked,
    sink: Sink,
    stored: StoredSamples | None,
    resume: bool,
    plan: Plan,
    about: Mapping[str, Any],
    places: NDArray[np.int32] | None,
) -> Attempt:
    """Begin, or go on; partitions whose parts are damaged, or whose samples have changed, begin anew."""
    same = about if stored is None else {**about, "inputs": stored.identity}
    attempt = begin(draft, plan, {"asked": repr(asked), "output": sink.suffix, **same}, resume=resume)
    assert attempt.checkpoint is not None
    own = {name: getattr(attempt.checkpoint, name) for name in Checkpoint.__dataclass_fields__}
    parts = Parts(**own, suffix=sink.suffix, asked=asked)
    if places is not None:
        with atomic_path(draft / _PLACES) as file:
            np.save(file, places)
    if stored is not None:
        _forget_changed(parts, [part.version for part in stored.parts(attempt.plan.partitions)])
    whole = dask.compute(*(dask.delayed(parts.is_whole, pure=False)(partition) for partition in attempt.reached))
    reached = {p: stop for (p, stop), is_whole in zip(attempt.reached.items(), whole, strict=True) if is_whole}
    return Attempt(parts, attempt.plan, reached)


def _forget_changed(parts: Parts, versions: list[str]) -> None:
    """Let parts count for nothing that are of other samples than those of now."""
    file = Path(parts.place, _VERSIONS)
    before = json.loads(file.read_text()) if file.exists() else versions
    for partition, (found, expected) in enumerate(zip(before, versions, strict=True)):
        if found != expected:
            parts.seal(partition).unlink(missing_ok=True)
    write_text(file, json.dumps(versions))  # only now: whoever is cut off before finds the old ones


def _reporter(progress: Progress | None, partitions: int) -> Callable[[TaskEvent], None]:
    done: set[int] = set()

    def report(event: TaskEvent) -> None:
        done.add(event.partition)
        if progress is not None:
            progress(len(done), partitions)

    return report


def _finish(parts: Parts, places: NDArray[np.int32] | None, result: Result, target: Path) -> None:
    """Make the output of the parts, and remove all else."""
    partitions = len(result.plan.partitions)
    if not partitions:  # whoever reads the output wants to know what it would hold
        parts.write(0, Scores(result.distinct, result.rows, places))
    joined = Path(parts.place, f"joined{target.suffix}")
    if joined.is_dir():
        shutil.rmtree(joined)
    try:
        parts.sink.join([parts.path(number) for number in range(max(1, partitions))], joined)
        for file in (joined, *joined.rglob("*")):
            if file.is_file():
                flush(file)
        joined.rename(target)
    except OSError as error:
        raise FileError(f"cannot write {target}: {error}") from error
    shutil.rmtree(parts.place, ignore_errors=True)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
