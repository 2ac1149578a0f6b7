"""Read files that test rules. Every error is a `RuleError` with file and line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import yaml

from sentinel.duration import seconds_of
from sentinel.engine.derived import sources
from sentinel.engine.rule import Rule
from sentinel.engine.rulefile import load, resolve_pack
from sentinel.engine.yaml_reader import YamlReader, read_file
from sentinel.errors import RuleError
from sentinel.replay.rule_test import notation
from sentinel.replay.rule_test.case import (
    AtMoment,
    Case,
    End,
    ExpectedAlert,
    How,
    Saving,
    Steps,
    Throughout,
)
from sentinel.replay.rule_test.notation import MAX_STEPS, NamedSeries, Value
from sentinel.signals import CATALOG, did_you_mean

MAX_CASES = 1000
MAX_RANKS = 64
MAX_VALUES = 2_000_000  # of all ranks of one test
MAX_SPELLED = 4_000_000  # of all series of a file
MAX_LENGTH = 24 * 3_600_000  # ms

_CASE_KEYS = (
    *("name", "interval", "ranks", "input_series", "ends", "checkpoints"),
    *("alert_rule_test", "exp_firing"),
)
_HOW: dict[str, How] = {how: how for how in get_args(How)}
_STEPS = re.compile(r"([0-9]{1,9})(-([0-9]{1,9})?)?")


def read_cases(path: Path) -> list[Case]:
    """The tests of a file. Raises `RuleError`."""
    return _Reader(path).cases(read_file(path))


class _Reader(YamlReader):
    """Reads one file."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._folder = path.parent
        self._rules: tuple[Rule, ...] = ()
        self._spelled = 0  # values so far

    def cases(self, data: bytes) -> list[Case]:
        """All tests, in the file's order."""
        root = self._compose(data)
        if root is None:
            raise RuleError("the file is empty: expected 'rule_files:'", file=self._file)
        keys = ("rule_files", "tests")
        top = self._mapping(root, "a file of tests", keys, required=keys)
        self._rules = self._load(top["rule_files"])
        nodes = self._sequence(top["tests"], "tests")
        if not 0 < len(nodes) <= MAX_CASES:
            raise self._error(top["tests"], f"a file has 1 to {MAX_CASES} tests")
        return [self._case(node) for node in nodes]

    def _load(self, node: yaml.Node) -> tuple[Rule, ...]:
        """The rules of all files, each with its own name."""
        rules: dict[str, Rule] = {}
        for one in self._sequence(node, "rule_files"):
            name = self._text(one, "a rule file")
            beside = self._folder / name
            try:
                loaded = load(beside if beside.is_file() else resolve_pack(name))
            except RuleError as error:
                raise error if error.file else self._error(one, error.reason) from None
            for rule in loaded:
                if rule.name in rules:
                    raise self._error(one, f"rule {rule.name!r} is in two of these files")
                rules[rule.name] = rule
        if not rules:
            raise self._error(node, "rule_files names no file: expected one such as [default]")
        return tuple(rules.values())

    def _case(self, node: yaml.Node) -> Case:
        fields = self._mapping(node, "a test", _CASE_KEYS, required=("name", "input_series"))
        name = self._text(fields["name"], "the name of a test")
        interval = self._interval(fields.get("interval"))
        series = self._input(fields["input_series"], name)
        ranks = self._ranks(fields.get("ranks"), series)
        if ranks * sum(map(len, series.values())) > MAX_VALUES:
            raise self._error(fields["input_series"], f"more than {MAX_VALUES} values in all")
        case = Case(
            name=name,
            line=node.start_mark.line + 1,
            rules=self._rules,
            interval=interval,
            ranks=ranks,
            series=series,
            ends=self._ends(fields.get("ends"), ranks),
            saving=self._saving(fields.get("checkpoints")),
            moments=self._moments(fields.get("alert_rule_test"), interval),
            throughout=self._throughout(fields.get("exp_firing")),
        )
        if not case.moments and case.throughout is None:
            raise self._error(node, "a test expects something: alert_rule_test or exp_firing")
        if case.length > MAX_LENGTH:
            raise self._error(node, "a test may look at 24 hours at most")
        return case

    # The run.

    def _interval(self, node: yaml.Node | None) -> int:
        milliseconds = 1000 if node is None else self._milliseconds(node, "interval")
        if node is not None and not milliseconds:
            raise self._error(node, "interval: a step takes some time, such as 500ms or 1s")
        return milliseconds

    def _input(self, node: yaml.Node, name: str) -> Mapping[NamedSeries, tuple[Value, ...]]:
        found: dict[NamedSeries, tuple[Value, ...]] = {}
        for one in self._sequence(node, "input_series"):
            keys = ("series", "values")
            fields = self._mapping(one, "an input series", keys, required=keys)
            text = self._text(fields["series"], "series")
            try:
                key = notation.series(text)
            except RuleError as error:
                raise self._error(fields["series"], f"series: {error.reason}") from None
            self._check(fields["series"], key)
            if key in found:
                raise self._error(fields["series"], f"series {text!r} occurs twice in this test")
            try:
                spelled = self._text(fields["values"], "values")
                found[key] = tuple(notation.values(spelled, f"{name}\0{key}"))
            except RuleError as error:
                offset = -1 if error.column is None else error.column - 1
                raise self._error(fields["values"], f"values: {error.reason}", offset) from None
            self._spelled += len(found[key])
            if self._spelled > MAX_SPELLED:
                raise self._error(one, f"more than {MAX_SPELLED} values in this file")
        if not found:
            raise self._error(node, "input_series names no series")
        return found

    def _check(self, node: yaml.Node, key: NamedSeries) -> None:
        """Whether a rank of a test could have measured it."""
        if key.rank is not None and key.rank >= MAX_RANKS:
            raise self._error(node, f"series: a test has at most {MAX_RANKS} ranks")
        signal = key.series.signal
        made_by = CATALOG[signal].made_by
        if made_by == "engine":
            raise self._error(
                node,
                f"{signal!r} is what the engine knows by itself: it follows from how ranks end "
                "(ends), or from checkpoints",
            )
        if made_by == "derived":
            raise self._error(
                node, f"{signal!r} follows from others: give {', '.join(sorted(sources(signal)))}"
            )

    def _ranks(self, node: yaml.Node | None, series: Mapping[NamedSeries, object]) -> int:
        named = max((key.rank for key in series if key.rank is not None), default=0) + 1
        if node is None:
            return named
        ranks = self._whole(node, "ranks", 1, MAX_RANKS)
        if ranks < named:
            raise self._error(node, f"ranks: a series is of rank {named - 1}, counted from 0")
        return ranks

    def _ends(self, node: yaml.Node | None, ranks: int) -> Mapping[int, End]:
        found: dict[int, End] = {}
        for one in [] if node is None else self._sequence(node, "ends"):
            keys = ("rank", "step", "how")
            fields = self._mapping(one, "an end", keys, required=keys)
            rank = self._whole(fields["rank"], "rank", 0, ranks - 1)
            if rank in found:
                raise self._error(one, f"rank {rank} ends twice")
            step = self._whole(fields["step"], "step", 0, MAX_STEPS)
            found[rank] = End(step, self._choice(fields["how"], "how", _HOW))
        return found

    def _saving(self, node: yaml.Node | None) -> Saving | None:
        if node is None:
            return None
        keys = ("every", "keep")
        fields = self._mapping(node, "checkpoints", keys, required=keys)
        every = self._whole(fields["every"], "every", 1, MAX_STEPS)
        return Saving(every, self._whole(fields["keep"], "keep", 1, 1000))

    # What is expected of it.

    def _moments(self, node: yaml.Node | None, interval: int) -> tuple[AtMoment, ...]:
        keys = ("alertname", "eval_step", "eval_time", "exp_alerts")
        found = []
        for one in [] if node is None else self._sequence(node, "alert_rule_test"):
            fields = self._mapping(one, "an alert_rule_test", keys, required=("alertname",))
            if ("eval_step" in fields) == ("eval_time" in fields):
                raise self._error(one, "an alert_rule_test has an eval_step or an eval_time")
            step = None
            if "eval_step" in fields:
                step = self._whole(fields["eval_step"], "eval_step", 1, MAX_STEPS)
                time = step * interval
            else:
                time = self._milliseconds(fields["eval_time"], "eval_time")
            alerts = self._alerts(fields.get("exp_alerts"))
            name = self._text(fields["alertname"], "alertname")
            rule = self._known(fields["alertname"], name)
            found.append(AtMoment(one.start_mark.line + 1, rule, step, time, alerts))
        return tuple(found)

    def _alerts(self, node: yaml.Node | None) -> tuple[ExpectedAlert, ...]:
        found = []
        for one in [] if node is None else self._sequence(node, "exp_alerts"):
            fields = self._mapping(one, "an alert", ("exp_labels", "exp_annotations"))
            labels: Mapping[str, yaml.Node] = {}
            texts: Mapping[str, yaml.Node] = {}
            if "exp_labels" in fields:
                labels = self._entries(fields["exp_labels"], "exp_labels")
            if "exp_annotations" in fields:
                known = ("summary", "advice")
                texts = self._mapping(fields["exp_annotations"], "exp_annotations", known)
            found.append(ExpectedAlert(self._texts(labels), self._texts(texts)))
        return tuple(found)

    def _texts(self, nodes: Mapping[str, yaml.Node]) -> Mapping[str, str]:
        return {key: self._text(value, key) for key, value in nodes.items()}

    def _throughout(self, node: yaml.Node | None) -> Throughout | None:
        if node is None:
            return None
        line = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode):
            if node.value != "none":
                raise self._error(node, "exp_firing is none, or rules such as {LossSpike: [42-60]}")
            return Throughout(line, {})
        entries = self._entries(node, "exp_firing")
        return Throughout(
            line, {self._known(value, name): self._ranges(value) for name, value in entries.items()}
        )

    def _ranges(self, node: yaml.Node) -> tuple[Steps, ...]:
        nodes = [node] if isinstance(node, yaml.ScalarNode) else self._sequence(node, "steps")
        found: list[Steps] = []
        for one in nodes:
            text = self._text(one, "steps")
            parts = _STEPS.fullmatch(text)
            if parts is None:
                raise self._error(
                    one, f"{text!r} are no steps: expected 42, 42-60, or 42- to the end"
                )
            first = int(parts[1])
            last = float(parts[3] or "inf") if parts[2] else first
            if not 1 <= first <= last or first > MAX_STEPS or (MAX_STEPS < last < float("inf")):
                raise self._error(one, f"steps {text} are not in order within 1 to {MAX_STEPS}")
            if found and first <= found[-1].last:
                raise self._error(one, f"steps {text} do not come after {found[-1]}")
            found.append(Steps(first, last))
        return tuple(found)

    def _known(self, node: yaml.Node, name: str) -> str:
        names = [rule.name for rule in self._rules]
        if name not in names:
            raise self._error(node, f"there is no rule {name!r}{did_you_mean(name, names)}")
        return name

    # Numbers.

    def _whole(self, node: yaml.Node, what: str, lowest: int, highest: int) -> int:
        text = self._text(node, what)
        if not re.fullmatch(r"[0-9]{1,9}", text) or not lowest <= int(text) <= highest:
            raise self._error(
                node, f"{what}: {text!r} is no whole number from {lowest} to {highest}"
            )
        return int(text)

    def _milliseconds(self, node: yaml.Node, what: str) -> int:
        text = self._text(node, what)
        seconds = seconds_of(text)
        if seconds is None or seconds * 1000 > MAX_LENGTH:
            raise self._error(node, f"{what}: {text!r} is no duration up to 24h, such as 30s or 5m")
        return round(seconds * 1000)
