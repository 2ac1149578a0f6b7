"""Where in the model and the data something went wrong, as far as one alert can say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sentinel.engine.transition import Cause
from sentinel.signals import OF_ONE_MICRO_BATCH
from sentinel.wire import Finding


def located(cause: Cause, labels: Mapping[str, str], found: Finding | None) -> Cause:
    """The cause, with what the alert's labels name, and what the rank found at that step.

    A finding that is not of one micro-batch may name a batch all the same: where there was but one.
    """
    parameter = labels.get("tensor")
    module = labels.get("layer") or (parameter or "").rpartition(".")[0]
    if found is None:
        return replace(cause, module=module or None, parameter=parameter)
    single = found.signal in OF_ONE_MICRO_BATCH or bool(found.batch)
    return replace(
        cause,
        module=module or found.module or None,
        parameter=parameter or found.parameter or None,
        micro_batch=found.micro_batch if single else None,
        batch=found.batch or None,
        samples=found.samples,
    )
