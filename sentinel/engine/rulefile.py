"""Rule files: YAML in the shape of Prometheus' rule files, to rules.

A file may extend another: it has all rules of that one but those named in `without`, and what it
says of a rule of the same name changes this rule.

Every error is a `RuleError` with the file, the line and the column, counted from 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import yaml

from sentinel.assets import asset_dir
from sentinel.duration import in_words, seconds_of
from sentinel.engine.annotation import Template, template
from sentinel.engine.language.expression import Expression, Score, Window
from sentinel.engine.language.parse import parse, remembered
from sentinel.engine.rule import Rule, Span, Unattended
from sentinel.engine.transition import SEVERITIES, Asked, Severity
from sentinel.engine.yaml_reader import YamlReader, read_file
from sentinel.errors import RuleError
from sentinel.signals import did_you_mean
from sentinel.wire import HOLD_FOR, LONGEST_HOLD, SHORTEST_HOLD

MAX_RULES = 1000
MAX_HELD = 1_000_000  # values in the windows of all rules, of each element
MAX_EXTENDED = 8  # files that extend each other
MAX_STEPS = 1_000_000
MAX_SECONDS = 366 * 86_400.0
ACTIONS = get_args(Asked)  # in the order in which a rule's own are carried out

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_SEVERITIES: dict[str, Severity] = {name: name for name in SEVERITIES}
_UNATTENDED: dict[str, Unattended] = {name: name for name in get_args(Unattended)}
_KEYS = ("extends", "without", "defaults", "groups")
_DEFAULT_KEYS = ("unattended", "hold_for")
_RULE_KEYS = (
    "alert",
    "expr",
    "for",
    "keep_firing_for",
    "labels",
    "actions",
    "unattended",
    "hold_for",
    "annotations",
)


def resolve_pack(name_or_path: str) -> Path:
    """The rule file that is meant: the name of a shipped pack, or a path. Raises `RuleError`."""
    shipped = sorted(path.stem for path in asset_dir("rules").glob("*.yaml"))
    if name_or_path in shipped:
        return asset_dir("rules") / f"{name_or_path}.yaml"
    path = Path(name_or_path)
    if path.is_file():
        return path
    hint = did_you_mean(name_or_path, shipped)
    raise RuleError(
        f"no rule pack {name_or_path!r}{hint}: expected one of {', '.join(shipped)}, "
        "or the path of a rule file"
    )


def load(path: Path) -> list[Rule]:
    """The rules of a file, in its order. Raises `RuleError`."""
    return _load(path, ())


def _load(path: Path, extended_by: tuple[Path, ...]) -> list[Rule]:
    return _Reader(path, (*extended_by, path)).rules(read_file(path))


@dataclass(frozen=True)
class _Policy:
    """What happens when a run is held and nobody answers, and after how many seconds."""

    unattended: Unattended = "resume"
    hold_for: float = HOLD_FOR


class _Reader(YamlReader):
    """Reads one file."""

    def __init__(self, path: Path, chain: tuple[Path, ...]) -> None:
        super().__init__(str(path))
        self._chain = chain  # of files, each extended by the one before; this is the last
        self._defaults: _Policy | None = None

    def rules(self, data: bytes) -> list[Rule]:
        """All rules, their names unique."""
        root = self._compose(data)
        if root is None:
            raise RuleError("the file is empty: expected 'groups:'", file=self._file)
        top = self._mapping(root, "a rule file", _KEYS)
        if not {"extends", "groups"} & top.keys():
            raise self._error(root, "a rule file lacks 'groups'")
        if "defaults" in top:
            fields = self._mapping(top["defaults"], "defaults", _DEFAULT_KEYS)
            self._defaults = self._policy(fields, _Policy())
        rules = self._extended(top)
        said: dict[str, Rule] = {}
        for group in self._sequence(top["groups"], "groups") if "groups" in top else ():
            fields = self._mapping(group, "a group", ("name", "rules"), required=("name", "rules"))
            name = self._text(fields["name"], "the name of a group")
            for node in self._sequence(fields["rules"], "rules"):
                rule = self._rule(node, name, rules)
                if rule.name in said:
                    first = said[rule.name].line
                    raise self._error(
                        node, f"rule {rule.name!r} is already defined in line {first}"
                    )
                said[rule.name] = rule
                if len(rules | said) > MAX_RULES:
                    raise self._error(node, f"more than {MAX_RULES} rules")
        if not (rules := rules | said):
            raise self._error(root, "there are no rules in this file")
        held: dict[Window | Score, int] = {}
        for rule in rules.values():
            held |= remembered(rule.expression)
        if sum(held.values()) > MAX_HELD:
            raise self._error(
                root,
                f"the windows of all rules hold {sum(held.values())} values together, more than "
                f"{MAX_HELD}: make them shorter",
            )
        return list(rules.values())

    def _extended(self, top: Mapping[str, yaml.Node]) -> dict[str, Rule]:
        """The rules of the file that this one extends, if any, but those it does without."""
        rules: dict[str, Rule] = {}
        if "extends" in top:
            path = self._path(top["extends"])
            rules = {rule.name: rule for rule in _load(path, self._chain)}
        for node in self._sequence(top["without"], "without") if "without" in top else ():
            name = self._text(node, "the name of an alert")
            if rules.pop(name, None) is None:
                hint = did_you_mean(name, rules)
                raise self._error(node, f"without: no rule {name!r} in what is extended{hint}")
        return rules

    def _path(self, node: yaml.Node) -> Path:
        """The pack that is extended: by its name, or by a path from this file's directory on."""
        text = self._text(node, "extends")
        try:
            beside = self._chain[-1].parent / text
            path = beside if beside.is_file() else resolve_pack(text)
        except RuleError as error:
            raise self._error(node, f"extends: {error.reason}") from None
        if path.resolve() in [one.resolve() for one in self._chain]:
            raise self._error(node, f"extends: {text!r} comes to extend itself")
        if len(self._chain) > MAX_EXTENDED:
            raise self._error(node, f"extends: more than {MAX_EXTENDED} files extend each other")
        return path

    def _rule(self, node: yaml.Node, group: str, extended: Mapping[str, Rule]) -> Rule:
        fields = self._mapping(node, "a rule", _RULE_KEYS, required=("alert",))
        name = self._text(fields["alert"], "the name of an alert")
        if not _NAME.fullmatch(name):
            raise self._error(
                fields["alert"], f"{name!r} is no name: letters, digits and _ make one"
            )
        start = extended.get(name)
        if start is None:
            if "expr" not in fields:
                raise self._error(node, f"a rule lacks 'expr'{did_you_mean(name, extended)}")
            start = Rule(name, group, self._expression(fields["expr"]))
            policy = self._defaults or _Policy()
        else:
            policy = self._defaults or _Policy(start.unattended, start.hold_for)
        return self._changed(start, node, fields, policy)

    def _changed(
        self, start: Rule, node: yaml.Node, fields: Mapping[str, yaml.Node], policy: _Policy
    ) -> Rule:
        """The rule, with what these fields say of it."""
        expression = self._expression(fields["expr"]) if "expr" in fields else start.expression
        annotations = self._annotations(fields.get("annotations"))
        policy = self._policy(fields, policy)
        return Rule(
            name=start.name,
            group=start.group,
            expression=expression,
            holds=self._span(fields, "for", expression, start.holds),
            keeps=self._span(fields, "keep_firing_for", expression, start.keeps),
            severity=self._severity(fields.get("labels"), start.severity),
            actions=self._actions(fields["actions"]) if "actions" in fields else start.actions,
            unattended=policy.unattended,
            hold_for=policy.hold_for,
            summary=annotations.get("summary", start.summary),
            advice=annotations.get("advice", start.advice),
            file=self._file,
            line=node.start_mark.line + 1,
        )

    def _expression(self, node: yaml.Node) -> Expression:
        text = self._text(node, "expr")
        try:
            return parse(text)
        except RuleError as error:
            offset = -1 if error.column is None else error.column - 1
            raise self._error(node, f"expr: {error.reason}", offset) from None

    def _span(
        self, fields: Mapping[str, yaml.Node], key: str, expression: Expression, start: Span
    ) -> Span:
        timed = expression.when == "tick"
        if (node := fields.get(key)) is None:
            if timed and start.unit == "steps":
                if start.amount:
                    raise self._error(fields["expr"], f"{key}: now goes by the clock: say how long")
                return Span(0.0, "seconds")
            return start
        text = self._text(node, key)
        if re.fullmatch(r"\d{1,9}", text) and int(text) <= MAX_STEPS:
            if timed and int(text):
                raise self._error(
                    node,
                    f"{key}: {expression.signal!r} goes by the clock: "
                    f"expected a duration such as {text}s",
                )
            return Span(float(text), "seconds" if timed else "steps")
        seconds = seconds_of(text)
        if seconds is None:
            raise self._error(
                node,
                f"{key}: {text!r} is neither a number of steps nor a duration such as 30s or 5m",
            )
        if seconds > MAX_SECONDS:
            raise self._error(node, f"{key}: {text!r} is longer than a year")
        return Span(seconds, "seconds")

    def _severity(self, node: yaml.Node | None, start: Severity) -> Severity:
        if node is None:
            return start
        labels = self._mapping(node, "labels", ("severity",))
        if "severity" not in labels:
            return start
        return self._choice(labels["severity"], "severity", _SEVERITIES)

    def _policy(self, fields: Mapping[str, yaml.Node], start: _Policy) -> _Policy:
        """What these fields say of a hold that nobody answers; `start` says the rest."""
        unattended, hold_for = start.unattended, start.hold_for
        if (node := fields.get("unattended")) is not None:
            unattended = self._choice(node, "unattended", _UNATTENDED)
        if (node := fields.get("hold_for")) is not None:
            if unattended == "hold":
                raise self._error(
                    node,
                    "hold_for: with 'unattended: hold' nothing ever ends the hold: leave out "
                    "hold_for, or say resume or stop",
                )
            hold_for = self._hold_for(node)
        return _Policy(unattended, hold_for)

    def _hold_for(self, node: yaml.Node) -> float:
        text = self._text(node, "hold_for")
        seconds = seconds_of(text)
        if seconds is None:
            raise self._error(node, f"hold_for: {text!r} is no duration such as 30m or 4h")
        if not SHORTEST_HOLD <= seconds <= LONGEST_HOLD:
            raise self._error(
                node,
                f"hold_for: {text!r} is out of bounds: at least {in_words(SHORTEST_HOLD)} and at "
                f"most {LONGEST_HOLD / 86_400:g} days; 'unattended: hold' holds for ever",
            )
        return seconds

    def _actions(self, node: yaml.Node) -> tuple[Asked, ...]:
        known: dict[str, Asked] = {action: action for action in ACTIONS}
        asked = {self._choice(item, "action", known) for item in self._sequence(node, "actions")}
        if {"pause", "stop"} <= asked:
            raise self._error(node, "actions: a run is paused or stopped, not both")
        return tuple(action for action in ACTIONS if action in asked)

    def _annotations(self, node: yaml.Node | None) -> dict[str, Template]:
        if node is None:
            return {}
        found = {}
        for key, value in self._mapping(node, "annotations", ("summary", "advice")).items():
            try:
                found[key] = template(self._text(value, key).strip())
            except RuleError as error:
                raise self._error(value, f"{key}: {error.reason}") from None
        return found
