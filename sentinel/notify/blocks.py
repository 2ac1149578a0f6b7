"""A message in Slack's Block Kit: within its limits, and with nothing in it that Slack obeys."""

from __future__ import annotations

import re

from sentinel.notify.message import Text, as_text

_SECTION = 3000  # characters of a section's text
_FIELD = 2000  # characters of a field
_FIELDS = 10  # fields in a section
_FALLBACK = 3000  # characters of the plain text that notifications show

Element = dict[str, str]
Block = dict[str, str | Element | list[Element]]


def escape(text: str) -> str:
    """Text that Slack shows as it is: no mention, link or channel can be made of it.

    Slack's three control characters become entities; it makes links of anything else only when
    asked to (`parse`, `link_names`), which we never do.
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """Text in a fixed-width font, where stars and underscores mean nothing."""
    return "`" + escape(text.replace("`", "'")) + "`"


def fallback(text: Text) -> str:
    """The message without blocks: what notifications, and clients without blocks, show."""
    return _fit(escape(as_text(text)).split("\n"), _FALLBACK)


def blocks(text: Text) -> list[Block]:
    """The message as at most ten blocks."""
    summary = f"\n{escape(text.summary)}" if text.summary else ""
    built = [_section(f"*{escape(text.headline)}*{summary}")]
    if text.facts:
        fields = [f"*{escape(label)}*\n{code(value)}" for label, value in text.facts]
        shown = [_mrkdwn(_cut(field, _FIELD)) for field in fields[:_FIELDS]]
        built.append({"type": "section", "fields": shown})
    did = f"*What Sentinel did*\n{escape(text.done)}" if text.done else ""
    if lines := [line for line in (did, escape(text.way_back)) if line]:
        built.append(_section("\n".join(lines)))
    if text.alerts:
        lines = [f"• {escape(alert)}" for alert in text.alerts]
        more = [f"• and {text.more_alerts} more"] if text.more_alerts else []
        built.append(_section(_fit(["*Alerts*", *lines, *more], _SECTION)))
    if text.advice:
        built.append(_section(f"*Advice*\n{escape(text.advice)}"))
    if text.commands:
        built += _commands(text)
    if text.footer:
        built.append({"type": "context", "elements": [_mrkdwn(escape(text.footer))]})
    return built


def _commands(text: Text) -> list[Block]:
    width = max(len(command.line) for command in text.commands)
    lines = [
        escape(f"{command.line.ljust(width)}  # {command.effect}") for command in text.commands
    ]
    if sum(map(len, lines)) > _SECTION - 500:
        return []  # half a command is worse than none; `sentinel status` shows them all
    return [_section(f"*What you can do*, on {code(text.host)}:\n```" + "\n".join(lines) + "```")]


def _section(text: str) -> Block:
    return {"type": "section", "text": _mrkdwn(_cut(text, _SECTION))}


def _mrkdwn(text: str) -> Element:
    return {"type": "mrkdwn", "text": text}


def _cut(text: str, limit: int) -> str:
    """At most `limit` characters, with no entity cut in two."""
    return text if len(text) <= limit else re.sub(r"&[a-z]*$", "", text[: limit - 1]) + "…"


def _fit(lines: list[str], limit: int) -> str:
    """As many whole lines as fit, the first one cut if need be."""
    kept: list[str] = []
    length = 0
    for line in lines:
        length += len(line) + 1
        if length > limit:
            break
        kept.append(line)
    return "\n".join(kept or [_cut(line, limit) for line in lines[:1]])
