"""A model's operators, one after the other, translated; what cannot be is found to the end and named all at once."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from taskgraph_dnn.errors import NetworkError
from taskgraph_dnn.models.affine import Affine
from taskgraph_dnn.models.drafts import Drafts, UnsupportedError

#: So many operators of a kind are named, of more their number is said.
_NAMED = 8

#: What a step would have made that cannot be translated: what depends on the sample, and what does not.
_LOST, _LOST_CONSTANT = object(), object()


@dataclass(frozen=True)
class Step:
    """An operator of a model.

    Attributes:
        kind: which it is.
        name: its name in the model.
        reads: the names of the values that it reads.
        writes: those of the values that it makes.
        known: whether `run` can translate it where it reads what depends on the sample.
        run: makes values of values; raises `UnsupportedError` where it cannot, or whatever its arguments lead to.
        looks: whether it reads no more than shapes.
    """

    kind: str
    name: str
    reads: Sequence[str]
    writes: Sequence[str]
    known: bool
    run: Callable[[list[Any]], Sequence[Any]]
    looks: bool = False


def translate(steps: Sequence[Step], values: dict[str, Any], drafts: Drafts, output: str) -> Affine:
    """Run all steps, and return the value of the name `output`.

    Args:
        steps: in order: what is read is there, or made by an earlier step.
        values: what is there, by name; what steps make is put beside it.
        drafts: where layers are made.
        output: the name of the model's output.

    Raises:
        NetworkError: some steps cannot be translated (all of them are named), or the output does not depend on the
            input.
    """
    readers = Counter(name for step in steps if not step.looks for name in step.reads) + Counter([output])
    faults: dict[str, list[str]] = {}
    for step in steps:
        drafts.place = f"{step.kind} {step.name}"
        try:
            made = _made(step, values)
        except _FaultError as fault:
            faults.setdefault(str(fault), []).append(step.name)
            made = [_LOST] * len(step.writes)
        for name, value in zip(step.writes, made, strict=False):
            shared = readers[name] > 1 and isinstance(value, Affine)
            values[name] = drafts.shared(value) if shared else value
    if faults:
        raise NetworkError(f"{drafts.model}: cannot translate {'; '.join(_texts(faults))}")
    found = values.get(output)
    if not isinstance(found, Affine):
        raise NetworkError(f"{drafts.model}: its output {output!r} does not depend on its input")
    return found


class _FaultError(Exception):
    """A step cannot be translated; says of which kind it is, and why."""


def _made(step: Step, values: dict[str, Any]) -> Sequence[Any]:
    """Return what a step makes.

    Raises:
        _FaultError: it cannot be translated.
    """
    missing = [name for name in step.reads if name not in values]
    if missing:
        raise _FaultError(f"{step.kind}, which reads {missing[0]!r} before anything has made it")
    read = [values[name] for name in step.reads]
    depends = any(value is _LOST or isinstance(value, Affine) for value in read)
    if depends and not step.known:
        raise _FaultError(step.kind)
    if any(value is _LOST or value is _LOST_CONSTANT for value in read):  # by a step that is named already
        return [_LOST if depends and not step.looks else _LOST_CONSTANT] * len(step.writes)
    try:
        return step.run(read)
    except UnsupportedError as error:
        raise _FaultError(f"{step.kind} {error}") from error
    except Exception as error:  # a model may call anything in any way
        raise _FaultError(f"{step.kind} as it is called: {error!r}") from error


def _texts(faults: dict[str, list[str]]) -> Iterable[str]:
    for fault, names in faults.items():
        more = "" if len(names) <= _NAMED else ", ..."
        yield f"{fault} ({len(names)}: {', '.join(names[:_NAMED])}{more})"
