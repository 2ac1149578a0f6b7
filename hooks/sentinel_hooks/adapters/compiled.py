"""Stand around the calls of a module that was compiled in place, by `module.compile()`.

Hooks on such a module are traced into the compiled code, where ours are nothing at all, so that
they never fire again. What is called instead of the module can be stood around from outside: the
compiled code stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import Module

Call = Callable[..., object]
_NAME = "_compiled_call_impl"  # torch's; copies and pickles of a module leave it out


def compiled_call(module: Module) -> Call | None:
    """What a call of this module runs if it was compiled in place."""
    call: Call | None = getattr(module, _NAME, None)
    return call


class CompiledCall:
    """Takes the place of a module's compiled code: `before`, the code itself, `after`.

    What the code raises passes untouched; `failed` gets it instead of `after`.
    """

    def __init__(
        self,
        module: Module,
        call: Call,
        before: Callable[[tuple[object, ...], Mapping[str, object]], None],
        after: Callable[[object], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._module = module
        self._call = call
        self._before = before
        self._after = after
        self._failed = failed
        setattr(module, _NAME, self)

    def __call__(self, *args: object, **kwargs: object) -> object:
        if torch.compiler.is_compiling():  # inside something larger that is compiled
            return self._call(*args, **kwargs)
        self._before(args, kwargs)
        try:
            output = self._call(*args, **kwargs)
        except BaseException as error:
            self._failed(error)
            raise
        self._after(output)
        return output

    def remove(self) -> None:
        """Put the compiled code back, unless something else has taken its place."""
        if vars(self._module).get(_NAME) is self:
            setattr(self._module, _NAME, self._call)
