"""Stand around a method of one object, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, update_wrapper

Guard = Callable[[Callable[[], None]], None]
Before = Callable[[tuple[object, ...], Mapping[str, object]], None]
After = Callable[[object], None]
Failed = Callable[[BaseException], None]
Around = Callable[..., object]


class Interception:
    """Replaces a method on one instance: `before`, the method itself, `after` with its result.

    `guard` runs what is ours so that its faults do not reach the caller. What the method raises
    passes untouched; `failed` is then shown it, and `after` is not called. `around` is called in
    place of the method, with it and its arguments, and may leave it out; what it raises passes.
    """

    def __init__(
        self,
        target: object,
        name: str,
        guard: Guard,
        before: Before | None = None,
        after: After | None = None,
        failed: Failed | None = None,
        around: Around | None = None,
    ) -> None:
        self._target = target
        self._name = name
        self._guard = guard
        self._before = before
        self._after = after
        self._failed = failed
        self._around = around
        self._shadowed = vars(target).get(name, _NOTHING)
        self._original: Callable[..., object] = getattr(target, name)
        # Others mark methods by attributes: learning-rate schedulers of torch do.
        update_wrapper(self, self._original)
        setattr(target, name, self)

    def __call__(self, *args: object, **kwargs: object) -> object:
        before, after, failed = self._before, self._after, self._failed
        if before is not None:
            self._guard(lambda: before(args, kwargs))
        around = self._around
        try:
            if around is None:
                result = self._original(*args, **kwargs)
            else:
                result = around(self._original, *args, **kwargs)
        except Exception as error:
            if failed is not None:
                self._guard(partial(failed, error))
            raise
        if after is not None:
            self._guard(lambda: after(result))
        return result

    @property
    def __func__(self) -> Callable[..., object]:
        """The function behind a bound method: what torch's schedulers put a wrapper around."""
        return lambda _, *args, **kwargs: self(*args, **kwargs)

    def remove(self) -> None:
        """Put back what was there. Under somebody else's later wrapper, just stand aside."""
        self._before = self._after = self._failed = self._around = None
        if vars(self._target).get(self._name) is not self:
            return
        if self._shadowed is _NOTHING:
            delattr(self._target, self._name)
        else:
            setattr(self._target, self._name, self._shadowed)


_NOTHING = object()


def is_intercepted(target: object, name: str) -> bool:
    """Whether we already stand around this method."""
    return isinstance(vars(target).get(name), Interception)
