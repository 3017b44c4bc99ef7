"""Checkpoints: what partitions have come to is kept while a run goes on, so that another attempt can go on from there.

    manifest.json                              what is run, and how; written before the first task and never again
    attempt-00001                              since when the next attempt goes on from here
    partition-00012-layer-00480.safetensors    what is left of partition 12 after layer 480, or its rows of the result

A place, a folder or a URL, is for one run. Its files appear whole, have a seal, and say what they are of. A file of a
partition goes when the next one is there, unless this attempt began with it: if a worker is lost, Dask makes anew what
the worker had, from what the attempt began with.

Tasks of an attempt that was given up may still be running when the next one begins. What they write is what the next
one would write; but they remove nothing once the next one is there. It first says so and then looks for files, and they
look for it between writing and removing: whatever it finds stays.
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

import taskgraph_dnn
from taskgraph_dnn.activations import Activations
from taskgraph_dnn.errors import CheckpointError, FileError, PlanError
from taskgraph_dnn.events import TaskEvent, publish
from taskgraph_dnn.flow import Budget, Span
from taskgraph_dnn.io.atomic import DRAFT
from taskgraph_dnn.io.places import Place
from taskgraph_dnn.io.sealed import sealed, unsealed
from taskgraph_dnn.kernels import load_kernel
from taskgraph_dnn.network import Network, NetworkSource
from taskgraph_dnn.plan import LayerPlan, Plan
from taskgraph_dnn.spans import Finished, Progressed, run_span

_FORMAT = 1
_MANIFEST = "manifest.json"
_ATTEMPT = re.compile(r"attempt-([0-9]{5,})")
_PARTITION = re.compile(r"partition-([0-9]{5,})-layer-([0-9]{5,})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """Where an attempt at a run keeps what its partitions come to; small, for it goes with every task.

    Attributes:
        place: `Place.name`.
        run: what the run is called, at random: no file of another one is taken for one of it.
        network, inputs: digests of what is run.
        attempt: as of the plan.
    """

    place: str
    run: str
    network: str
    inputs: str
    attempt: int

    def check(self) -> None:
        """Check that this process sees the place.

        Raises:
            CheckpointError: it does not, or sees another one under this name.
        """
        try:
            found = _read_manifest(Place(self.place))["run"]
        except FileError as error:
            raise CheckpointError(f"the checkpoint is not to be seen: {error}") from error
        if found != self.run:
            raise CheckpointError(f"{self.place} is the checkpoint of run {found}, expected {self.run}")

    def keep(self, after: Progressed | Finished, span: Span, replaced: int | None) -> Progressed | Finished:
        """Write what a span has made of its partition; then remove what was kept after layer `replaced`, if any.

        Returns:
            What goes on in its place: the same.

        Raises:
            CheckpointError: it cannot be written, because the disk is full, for example.
        """
        _check_once(self)
        place = Place(self.place)
        arrays, texts = _parts(after)
        try:
            place.write(_file(span.partition, span.stop), sealed(arrays, texts | self._about(span)))
            if replaced is not None and not place.holds(_attempt(self.attempt + 1)):
                place.remove(_file(span.partition, replaced))
        except FileError as error:
            raise CheckpointError(f"cannot keep partition {span.partition} after layer {span.stop}: {error}") from error
        return after

    def kept(self, span: Span, outputs: int, last: bool) -> Progressed | Finished:
        """Return what a span of an earlier attempt has made of its partition, and publish the events of how it came.

        Args:
            span: the span.
            outputs: of its last layer.
            last: whether that is the network's last one.

        Raises:
            CheckpointError: the file is gone or damaged, or not what its name says.
        """
        place, name = Place(self.place), _file(span.partition, span.stop)
        hindered = f"cannot go on with partition {span.partition} after layer {span.stop}"
        try:
            arrays, texts = unsealed(place.read(name))
            for about, expected in self._about(span).items():
                if texts.get(about) != expected:
                    raise ValueError(f"its {about} is {texts.get(about)}, expected {expected}")
            found = _whole(arrays, texts, span, outputs, last)
        except FileError as error:
            raise CheckpointError(f"{hindered}: {error}") from error
        except ValueError as error:
            advice = "remove this file and resume once more: the partition then begins anew"
            raise CheckpointError(f"{hindered}: {place.at(name)} is damaged, {error}; {advice}") from error
        for event in found.events:
            publish(event)
        return found

    def _about(self, span: Span) -> dict[str, str]:
        """Return what a file says it is of."""
        about = {"format": _FORMAT, "run": self.run, "network": self.network, "inputs": self.inputs}
        return {name: str(value) for name, value in {**about, "partition": span.partition, "layer": span.stop}.items()}


@dataclass(frozen=True)
class Attempt:
    """A run that begins, or goes on.

    Attributes:
        checkpoint: where it is kept; None where it is not.
        plan: how it is run: as the first attempt planned it.
        reached: partitions that earlier attempts have taken on, and after which layer each of them is kept.
    """

    checkpoint: Checkpoint | None
    plan: Plan
    reached: dict[int, int]


def begin(where: str | os.PathLike[str], plan: Plan, about: Mapping[str, Any], *, resume: bool) -> Attempt:
    """Begin a run that is checkpointed, or go on with it.

    Args:
        where: a folder, which is made if need be, or a URL.
        plan: how the run would be run now.
        about: what is run: digests of "network" and "inputs", and whatever else must be the same; plain values.
        resume: whether to go on with the run that is there, if any.

    Raises:
        CheckpointError: there is another run, or this one but it is not to be resumed, or something else; or the place
            cannot be used.
        PlanError: `where` is no place.
        KernelError: a kernel of the run is unknown here.
        MissingDependencyError: the URL, or a kernel of the run, needs a package that is not installed.
    """
    if not isinstance(where, str | os.PathLike) or not os.fspath(where):
        raise PlanError(f"checkpoint is {where!r}, expected a folder or a URL")
    about = {"format": _FORMAT, "version": taskgraph_dnn.__version__, **about}
    try:
        place = Place(where)
        place.make()
        names = place.names()
        if _MANIFEST not in names:
            return _first(place, names, plan, about)
        manifest = _read_manifest(place)
        if not resume:
            raise CheckpointError(
                f"{place.name} is the checkpoint of a run that began on {manifest['begun']}: resume it (resume=True, "
                "--resume) or take another place"
            )
        return _next(place, names, manifest, plan, about)
    except FileError as error:
        raise CheckpointError(f"cannot keep checkpoints at {where}: {error}") from error


def run_kept(
    before: Any, network: Network | NetworkSource, span: Span, checkpoint: Checkpoint, replaced: int | None
) -> Progressed | Finished:
    """Take one partition through a span as `run_span` does, and keep what that makes of it; see `Checkpoint.keep`."""
    return checkpoint.keep(run_span(before, network, span), span, replaced)


def rows_digest(rows: Any) -> str:
    """Return the SHA-256 of checked rows of input: equal on every machine, whatever Dask hashes with."""
    sparse = scipy.sparse.issparse(rows)
    arrays = (rows.indptr.astype(np.int64), rows.indices.astype(np.int64), rows.data) if sparse else (rows,)
    hashed = hashlib.sha256(f"{rows.shape} {len(arrays)}".encode())
    for array in arrays:
        hashed.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return hashed.hexdigest()


def _first(place: Place, names: Iterable[str], plan: Plan, about: Mapping[str, Any]) -> Attempt:
    others = sorted(name for name in names if not name.startswith(DRAFT))
    if others:
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        raise CheckpointError(f"{place.name} holds {others[0]}{more}, but no checkpoint: take an empty place")
    run = secrets.token_hex(16)
    manifest = {"run": run, "begun": _now(), "about": about, "plan": plan.to_dict()}
    place.write(_MANIFEST, [json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1).encode()])
    return Attempt(Checkpoint(place.name, run, about["network"], about["inputs"], 0), plan, {})


def _next(
    place: Place, names: Iterable[str], manifest: Mapping[str, Any], plan: Plan, about: Mapping[str, Any]
) -> Attempt:
    for name, expected in about.items():
        found = manifest["about"].get(name)
        if found != expected:
            raise CheckpointError(
                f"{place.name} is the checkpoint of another run, with {name} {found!r}; this one has {expected!r}"
            )
    attempt = 1 + max((int(match[1]) for match in map(_ATTEMPT.fullmatch, names) if match), default=0)
    planned = replace(_plan(manifest["plan"]), threads=plan.threads, workers=plan.workers, attempt=attempt)
    for kernel in {layer.kernel for layer in planned.layers}:
        load_kernel(kernel)  # this machine may be another one
    place.write(_attempt(attempt), [_now().encode()])
    names = place.names()  # only now; see above
    reached = _reached(place, names, planned)
    for name in names:
        if name.startswith(DRAFT) or _is_older(name, reached):
            place.remove(name)
    return Attempt(
        Checkpoint(place.name, manifest["run"], about["network"], about["inputs"], attempt), planned, reached
    )


def _reached(place: Place, names: Iterable[str], plan: Plan) -> dict[int, int]:
    reached: dict[int, int] = {}
    for name in names:
        match = _PARTITION.fullmatch(name)
        if match is None:
            continue
        partition, stop = int(match[1]), int(match[2])
        if partition >= len(plan.partitions) or stop not in plan.checkpoints:
            raise CheckpointError(f"{place.at(name)} cannot be of this run, whose checkpoint is in {place.name}")
        reached[partition] = max(reached.get(partition, 0), stop)
    return reached


def _is_older(name: str, reached: Mapping[int, int]) -> bool:
    match = _PARTITION.fullmatch(name)
    return match is not None and int(match[2]) < reached[int(match[1])]


def _read_manifest(place: Place) -> dict[str, Any]:
    content = place.read(_MANIFEST)
    try:
        manifest: dict[str, Any] = json.loads(content)
        seal = manifest.pop("sha256", None)
        found = _digest(manifest)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{place.at(_MANIFEST)} is damaged: {error}; take another place") from error
    if seal != found:
        raise CheckpointError(
            f"{place.at(_MANIFEST)} is damaged: it has SHA-256 {found}, but was written with {seal}; take another place"
        )
    return manifest


def _plan(values: dict[str, Any]) -> Plan:
    """Return the plan that these values, which went through JSON, were made of."""
    frozen = _frozen(values)
    return Plan(**frozen | {"layers": tuple(LayerPlan(**layer) for layer in frozen["layers"])})


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _frozen(held) for name, held in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _parts(after: Progressed | Finished) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays and the texts of a file."""
    texts = {"events": json.dumps([event.to_dict() for event in after.events])}
    if isinstance(after, Progressed):
        left, budget = after.activations, json.dumps([float(part) for part in after.budget])
        arrays = {"values": left.values, "samples": left.samples, "copies": left.copies, "twins": after.twins}
        return arrays, texts | {"budget": budget}
    outputs = after.outputs
    rows = {"values": outputs.data, "columns": outputs.indices, "starts": outputs.indptr}
    return {**rows, "samples": after.samples, "twins": after.twins}, texts


def _whole(
    arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str], span: Span, outputs: int, last: bool
) -> Progressed | Finished:
    """Return what `_parts` has taken apart; raises ValueError where it does not fit the plan."""
    values, samples, dtype = arrays["values"], arrays["samples"], np.dtype(span.dtype)
    tiles = -(-samples.size // span.lanes)
    shape = arrays["columns"].shape if last else (tiles, outputs, span.lanes)
    if (values.dtype, values.shape) != (dtype, shape):
        raise ValueError(f"its values are {values.dtype} of shape {values.shape}, expected {dtype} of shape {shape}")
    events = tuple(TaskEvent.from_dict(event | {"run": span.run}) for event in json.loads(texts["events"]))
    twins = arrays["twins"].copy()
    if last:
        parts = values, arrays["columns"], arrays["starts"]
        rows = scipy.sparse.csr_array(parts, shape=(samples.size, outputs), copy=True)
        return Finished(rows, samples.copy(), twins, events)
    left = Activations(values, samples, arrays["copies"]).copied()
    return Progressed(left, twins, Budget(*json.loads(texts["budget"])), events)


@cache
def _check_once(checkpoint: Checkpoint) -> None:
    """Check a checkpoint once in a process: workers may come when a run has begun."""
    checkpoint.check()


def _file(partition: int, stop: int) -> str:
    return f"partition-{partition:05}-layer-{stop:05}.safetensors"


def _attempt(number: int) -> str:
    return f"attempt-{number:05}"


def _now() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
