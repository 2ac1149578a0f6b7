"""What is asked of Prometheus, in PromQL: https://prometheus.io/docs/prometheus/latest/querying/.

`ONE` chooses the run of a dashboard for one run, `SOME` those of a dashboard for several. Grafana
escapes a variable for a regular expression only where it can have several values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sentinel.signals import CATALOG
from sentinel.signals.exposition import metric_name

ONE = 'run="$run"'
SOME = 'run=~"$run"'
INSTANCE = 'instance=~"$instance"'

Style = Literal["", "limit", "middle", "edge", "band"]


@dataclass(frozen=True)
class Query:
    """An expression, and what its series are called: `{{run}}` stands for a label's value.

    `style`: "limit" is a dashed red line, "middle" a dashed gray one, "edge" none, and "band" an
    area down to the query before.
    """

    expression: str
    legend: str = ""
    style: Style = ""


def signal(name: str, stat: str, which: str = ONE) -> str:
    """A statistic over ranks, and where the signal has a label over all its labels too."""
    label = CATALOG[name].label
    rest = f',{label}=""' if label else ""
    found = f'{metric_name(CATALOG[name])}{{{which},stat="{stat}"{rest}}}'
    # The largest comes with its rank, and would be another series whenever that changes.
    return f"max by (run) ({found})" if stat == "max" else found


def by_label(name: str, which: str = ONE) -> str:
    """A series for each label of the signal, or for the worst of them where there are many."""
    label = CATALOG[name].label
    return f'{metric_name(CATALOG[name])}{{{which},{label}!=""}}'


def metric(name: str, *matchers: str) -> str:
    """A metric by its own name."""
    return f"{name}{{{','.join(matchers)}}}"


def rate(name: str, *matchers: str, by: str = "") -> str:
    """How much a counter grows in a second, summed by these labels."""
    return f"sum by ({by or 'instance'}) (rate({metric(name, *matchers)}[$__rate_interval]))"


def quantile(q: float, histogram: str, *matchers: str) -> str:
    """A quantile of a histogram, for each daemon."""
    buckets = rate(f"{histogram}_bucket", *matchers, by="instance, le")
    return f"histogram_quantile({q:g}, {buckets})"
