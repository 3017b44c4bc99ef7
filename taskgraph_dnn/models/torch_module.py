"""PyTorch modules, traced by torch.fx: what they call, in order, with modules of torch's own as they are."""

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.fx
from torch import nn
from torch.nn.utils import parametrize, prune

from taskgraph_dnn.errors import NetworkError
from taskgraph_dnn.models.affine import Affine, Shape
from taskgraph_dnn.models.drafts import Drafts, UnsupportedError
from taskgraph_dnn.models.steps import Step, translate
from taskgraph_dnn.models.torch_operators import FUNCTIONS, LOOKS, MODULES, SHARING
from taskgraph_dnn.network import Network

_CALLS = ("call_module", "call_function", "call_method", "get_attr")
#: Where modules that run another one, as it is, keep it; by names, because to import them all takes seconds.
_WRAPPERS = {
    "AveragedModel": "module",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "OptimizedModule": "_orig_mod",  # of torch.compile
}


def network_of(module: Any, input_shape: Shape | None) -> Network:
    """Return the network that a module is; see `from_torch`."""
    if not isinstance(module, nn.Module):
        raise NetworkError(f"model is a {type(module).__name__}, expected a torch.nn.Module or a state dict")
    while type(module).__name__ in _WRAPPERS:
        module = getattr(module, _WRAPPERS[type(module).__name__])
    place = type(module).__name__
    if _Tracer().is_leaf_module(module, "") or module._forward_pre_hooks:
        # A trace looks into the outermost module, past its hooks.
        module = nn.Sequential(module)
    nodes = _traced(module, place)
    modules = dict(module.named_modules())
    drafts = Drafts(place)
    values: dict[str, Any] = {}
    given = [node for node in nodes if node.op == "placeholder"]
    for node in given[1:]:
        if not node.args:
            raise NetworkError(f"{place} has {len(given)} inputs ({', '.join(map(str, given))}), expected 1")
        values[node.name] = node.args[0]
    if not given:
        raise NetworkError(f"{place} has no input")
    values[given[0].name] = drafts.input(input_shape or _input_shape(nodes, modules, place))
    (last,) = (node.args[0] for node in nodes if node.op == "output")
    if not isinstance(last, torch.fx.Node):
        raise NetworkError(f"{place} returns a {type(last).__name__}, expected one tensor")
    overwritten = _overwritten(nodes, modules)
    steps = [_step(node, module, modules, drafts, node in overwritten) for node in nodes if node.op in _CALLS]
    return drafts.network(translate(steps, values, drafts, last.name))


def _recorded(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    return lambda proxy, other: proxy.tracer.create_proxy("call_function", function, (proxy, other), {})


class _Proxy(torch.fx.Proxy):  # type: ignore[misc]
    """A value that is traced; x += y is recorded as the change in place that it is, where torch.fx takes x = x + y."""

    __iadd__, __isub__ = _recorded(operator.iadd), _recorded(operator.isub)
    __imul__, __itruediv__ = _recorded(operator.imul), _recorded(operator.itruediv)


class _Tracer(torch.fx.Tracer):  # type: ignore[misc]
    def proxy(self, node: Any) -> Any:
        return _Proxy(node, self)


def _traced(module: Any, place: str) -> list[Any]:
    """Return the nodes of the module's graph."""
    with _evaluating(module):
        try:
            graph = _Tracer().trace(module)
        except Exception as error:  # whatever the module's own code raises
            text = f"{place} cannot be traced ({error}): export it to ONNX, or give what it is made of"
            raise NetworkError(text) from error
    return list(graph.nodes)


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Have a module trace as it is in evaluation, and leave it as it was."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _input_shape(nodes: Sequence[Any], modules: dict[str, Any], place: str) -> Shape:
    """Return the shape of a sample, where the first module that says it takes flat ones."""
    for node in nodes:
        first = modules.get(node.target) if node.op == "call_module" else None
        for kind, size in ((nn.Linear, "in_features"), (nn.BatchNorm1d, "num_features")):
            if isinstance(first, kind):
                return (getattr(first, size),)
        if first is not None and not isinstance(first, nn.Flatten | nn.Identity | nn.Dropout):
            break
    raise NetworkError(f"{place} does not say what shape a sample has: give input_shape")


def _overwritten(nodes: Sequence[Any], modules: dict[str, Any]) -> set[Any]:
    """Return the nodes that change a value in place which a later one reads as it was made."""
    place = {node: k for k, node in enumerate(nodes)}
    origin: dict[Any, Any] = {}
    found = set()
    for node in nodes:
        called = modules.get(node.target) if node.op == "call_module" else None
        makes = FUNCTIONS.get(node.target) if called is None else MODULES.get(_kind(called))
        first = node.args[0] if node.args and isinstance(node.args[0], torch.fx.Node) else None
        shares = makes in SHARING
        origin[node] = origin[first] if shares and first is not None else node
        if first is not None and not shares and (getattr(called, "inplace", False) or _changes(node)):
            before = [other for other in origin if origin[other] is origin[first] and other is not node]
            if any(place[user] > place[node] for other in before for user in other.users):
                found.add(node)
    return found


def _changes(node: Any) -> bool:
    """Return whether a function changes its first argument in place."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    own = name.endswith("_") or name in ("iadd", "isub", "imul", "itruediv")
    return node.op in ("call_function", "call_method") and (own or node.kwargs.get("inplace", False) is True)


def _step(node: Any, module: Any, modules: dict[str, Any], drafts: Drafts, overwrites: bool) -> Step:
    reads = [argument.name for argument in node.all_input_nodes]
    if node.op == "get_attr":
        return Step("attribute", node.target, [], [node.name], True, lambda _: [_attribute(module, node.target)])
    called = modules[node.target] if node.op == "call_module" else None
    kind = node.target if called is None else _kind(called)
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))

    def run(read: list[Any]) -> Sequence[Any]:
        by_name = dict(zip(reads, read, strict=True))
        args = torch.fx.node.map_arg(node.args, lambda argument: by_name[argument.name])
        kwargs = torch.fx.node.map_arg(node.kwargs, lambda argument: by_name[argument.name])
        if overwrites:
            raise UnsupportedError("in place, of what is read again afterwards")
        if called is not None:
            return [_call_module(MODULES[_kind(called)], drafts, called, *args, **kwargs)]
        if any(isinstance(value, Affine) for value in read):
            return [FUNCTIONS[node.target](drafts, *args, **kwargs)]
        if _changes(node) and isinstance(args[0], torch.Tensor):
            raise UnsupportedError("in place, of a constant")
        return [_computed(node.target, args, kwargs)]

    step = node.name if called is None else node.target
    return Step(name, step, reads, [node.name], kind in MODULES or kind in FUNCTIONS, run, looks=kind in LOOKS)


def _kind(module: Any) -> type[Any]:
    """Return the class of a module; a parametrized one has a class of its own."""
    kind: type[Any] = type(module).__mro__[parametrize.is_parametrized(module)]
    return kind


def _call_module(make: Any, drafts: Drafts, module: Any, x: Any) -> Affine:
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    if any(not isinstance(hook, prune.BasePruningMethod) for hook in hooks):
        raise UnsupportedError("with a hook")
    if not isinstance(x, Affine):
        raise UnsupportedError("of a constant")
    made: Affine = make(drafts, module, x)
    return made


def _attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def _computed(target: Any, args: Any, kwargs: Any) -> Any:
    """Return what a function makes of constants."""
    with torch.no_grad():
        try:
            return getattr(args[0], target)(*args[1:], **kwargs) if isinstance(target, str) else target(*args, **kwargs)
        except Exception as error:  # whatever the function raises
            raise UnsupportedError(f"of constants: {error}") from error
