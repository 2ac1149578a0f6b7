"""What is said of an alert that begins to fire: its texts, and where it points."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from sentinel.engine.annotation import UNKNOWN, Facts
from sentinel.engine.certainty import certainty
from sentinel.engine.change import Change
from sentinel.engine.checkpoint import Checkpoints
from sentinel.engine.comparison import Comparisons, is_of_agreement
from sentinel.engine.culprit import located
from sentinel.engine.incident import Fired
from sentinel.engine.language.expression import RANK_AXIS
from sentinel.engine.roster import Roster
from sentinel.engine.rule import labels_of
from sentinel.engine.transition import AlertChanged, Cause
from sentinel.wire import Finding

_MAX_FINDINGS = 4096


class Witness:
    """Remembers what the ranks of a run have found, and tells of it when an alert fires."""

    def __init__(
        self, run: str, roster: Roster, checkpoints: Checkpoints, comparisons: Comparisons
    ) -> None:
        self._run = run
        self._roster = roster
        self._checkpoints = checkpoints
        self._comparisons = comparisons
        self._findings: OrderedDict[tuple[int, int, str], Finding] = OrderedDict()

    def remember(self, rank: int, step: int, finding: Finding) -> None:
        """A rank has found this at a step."""
        self._findings[rank, step, finding.signal] = finding
        if len(self._findings) > _MAX_FINDINGS:
            self._findings.popitem(last=False)

    def describe(self, change: Change, now: float) -> Fired:
        """The alert that fired, in words, and where it points."""
        rule, alert = change.rule, change.alert
        labels = labels_of(rule, change.key)
        cause = self._cause(change, labels)
        facts = Facts(
            value=change.value,
            score=change.score,
            step=alert.step,
            rank=labels.get(RANK_AXIS, UNKNOWN),
            module=cause.module or UNKNOWN,
            layer=labels.get("layer", UNKNOWN),
            host=cause.host or UNKNOWN,
            detail=self._detail(cause) or UNKNOWN,
            parameter=cause.parameter or UNKNOWN,
            batch=cause.batch or UNKNOWN,
        )
        changed = AlertChanged(
            run=self._run,
            incident="",
            rule=rule.name,
            signal=cause.signal,
            state="firing",
            severity=rule.severity,
            step=alert.step,
            fired_step=alert.fired_step,
            labels=labels,
            value=change.value,
            score=change.score,
            summary=rule.summary.fill(facts),
            advice=rule.advice.fill(facts),
            actions=rule.actions,
            at=now,
        )
        return Fired(
            change.key,
            changed,
            cause,
            rule.unattended,
            rule.hold_for,
            since=alert.since,
            certainty=certainty(rule.expression, cause),
            evidence=self._comparisons.of(rule.expression, change.key, alert.step),
            of_agreement=is_of_agreement(rule.expression),
        )

    def _cause(self, change: Change, labels: Mapping[str, str]) -> Cause:
        """What this alert alone says of where it began."""
        signal, step = change.rule.expression.signal, change.alert.step
        rank = int(labels[RANK_AXIS]) if RANK_AXIS in labels else None
        state = None if rank is None else self._roster.ranks.get(rank)
        found = None if rank is None else self._findings.get((rank, step, signal))
        cause = Cause(
            rule=change.rule.name,
            signal=signal,
            step=step,
            rank=rank,
            host=(state.host or None) if state else None,
            device=(state.device or None) if state else None,
        )
        return located(cause, labels, found)

    def _detail(self, cause: Cause) -> str:
        """What the rank said of it, in its own words; of a checkpoint, which one it is."""
        if cause.rank is None:
            return self._checkpoints.detail(cause.signal)
        if cause.signal == "failed" and cause.rank in self._roster.ranks:
            return self._roster.ranks[cause.rank].detail
        finding = self._findings.get((cause.rank, cause.step, cause.signal))
        return finding.detail if finding else ""
