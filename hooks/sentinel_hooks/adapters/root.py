"""Forward passes of the root module, and backward passes that nobody announces."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.hooks import RemovableHandle

from sentinel_hooks.adapters.compiled import CompiledCall, compiled_call
from sentinel_hooks.probes.inert import InertInCopies
from sentinel_hooks.probes.panel import Panel


class RootWatch:
    """Tells the panel when the root is called and, where nobody else does, of the backward.

    A backward pass through what the root returned is noticed by a hook on that tensor, and its
    end by a callback of the autograd engine, which runs after all gradients are there, those of
    DistributedDataParallel included. `announced()` says that the trainer tells of the pass
    itself; `backward_ended` is called when one that it does not tell of is over. `failed` gets
    what a forward pass raises. `half` says whether the last one ran under fp16 autocast.
    """

    def __init__(
        self,
        root: Module,
        panel: Panel,
        on_phase: Callable[[str], None],
        *,
        announced: Callable[[], bool] = lambda: False,
        backward_ended: Callable[[], None] = lambda: None,
        failed: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self._panel = panel
        self._on_phase = on_phase
        self._announced = announced
        self._backward_ended = backward_ended
        self.failed = failed
        self._training = False
        self.half = False
        before = root.register_forward_pre_hook(_BeforeRoot(self), with_kwargs=True)
        after = root.register_forward_hook(_AfterRoot(self), always_call=True)
        self._handles: tuple[RemovableHandle, ...] = (before, after)
        self._after = after.id
        self._root = root
        self._compiled: CompiledCall | None = None
        self.look()

    def look(self) -> None:
        """Notice that the root was compiled (`root.compile()`): its hooks fire no more.

        Asked at each step boundary, so that of a compilation just the first step goes unseen.
        """
        if (call := compiled_call(self._root)) is not None and call is not self._compiled:
            self._compiled = CompiledCall(
                self._root, call, self._before_call, self._after_call, self._call_failed
            )

    @property
    def is_compiled(self) -> bool:
        """Whether the root's calls are seen from outside, so that its hooks must keep still."""
        return self._compiled is not None

    def _before_call(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        self.run(lambda: self.began(self._root, args, kwargs))

    def _after_call(self, output: object) -> None:
        self.run(lambda: self.ended(output))

    def _call_failed(self, error: BaseException) -> None:
        self.run(lambda: self.failed(error))

    def began(self, root: Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """The root is called."""
        self._training = root.training and torch.is_grad_enabled()
        hooks = root._forward_hooks
        if next(reversed(hooks), None) != self._after and self._after in hooks:
            hooks[self._after] = hooks.pop(self._after)  # see the output last, as others left it
        self.half = _autocasts_to_half()
        self._on_phase("forward")
        self._panel.forward_began(args, kwargs, self._training)

    def ended(self, output: object) -> None:
        """The root returned."""
        if not self._training:
            return
        self._training = False
        self._panel.forward_ended(output)
        tensor = next(_differentiable(output), None)
        if tensor is not None:
            tensor.register_hook(_AtBackward(self))  # type: ignore[no-untyped-call]

    def run(self, function: Callable[[], None]) -> None:
        """Run what is ours; its faults stay with us."""
        self._panel.fence.run("watching the model", function)

    def backward(self) -> None:
        """A backward pass has reached what the root returned."""
        if self._announced():
            return
        self._on_phase("backward")
        self._panel.backward_began()
        # Twice, to come after the callbacks that others queue during the backward.
        _at_end_of_backward(lambda: _at_end_of_backward(self._over))

    def _over(self) -> None:
        self.run(self._backward_over)

    def _backward_over(self) -> None:
        self._panel.backward_ended()
        self._backward_ended()

    def detach(self) -> None:
        """Remove the hooks from the root."""
        for handle in self._handles:
            handle.remove()
        if self._compiled is not None:
            self._compiled.remove()
            self._compiled = None
        self._training = False


class _BeforeRoot(InertInCopies):
    __slots__ = ("__weakref__", "_watch")

    def __init__(self, watch: RootWatch) -> None:
        self._watch = watch

    def __call__(self, root: Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        # Traced by torch.compile this is nothing at all: the compiled code is as it was.
        if not torch.compiler.is_compiling() and not self._watch.is_compiled:
            self._watch.run(lambda: self._watch.began(root, args, kwargs))


class _AfterRoot(InertInCopies):
    __slots__ = ("__weakref__", "_watch")

    def __init__(self, watch: RootWatch) -> None:
        self._watch = watch

    def __call__(self, root: Module, args: tuple[object, ...], output: object) -> None:
        if torch.compiler.is_compiling() or self._watch.is_compiled:
            return
        # torch calls it with nothing, from where it handles the error, when the root has raised.
        error = sys.exc_info()[1] if output is None else None
        if error is None:
            self._watch.run(lambda: self._watch.ended(output))
        else:
            self._watch.run(partial(self._watch.failed, error))


class _AtBackward:
    """A hook on a tensor; torch leaves it out, without a warning, when the tensor is saved."""

    __torch_unserializable__ = True

    def __init__(self, watch: RootWatch) -> None:
        self._watch = watch

    def __call__(self, gradient: Tensor) -> None:
        self._watch.run(self._watch.backward)


def _at_end_of_backward(function: Callable[[], None]) -> None:
    torch.autograd.Variable._execution_engine.queue_callback(function)


def _autocasts_to_half() -> bool:
    return any(
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
        for kind in ("cuda", "cpu")
    )


def _differentiable(output: object) -> Iterator[Tensor]:
    """The tensors in what the root returned that a backward pass can start from."""
    if isinstance(output, Tensor):
        if output.requires_grad:
            yield output
    elif isinstance(output, Mapping):
        for one in output.values():
            yield from _differentiable(one)
    elif isinstance(output, tuple | list):
        for one in output:
            yield from _differentiable(one)
