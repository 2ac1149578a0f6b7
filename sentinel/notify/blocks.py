"""A message in Slack's Block Kit: within its limits, and with nothing in it that Slack obeys.

What a person needs first comes first, since a telephone shows some ten lines of it. All text is
rich text or plain text, in which Slack looks for no mark-up: what a name or a stack has in it is
shown as it is. Only the text for notifications has characters that need to be escaped.
"""

from __future__ import annotations

from collections.abc import Sequence

from sentinel.notify.message import Point, Text, as_text, utc
from sentinel.notify.plain import cut, plain_lines

_HEADER = 150  # characters of a header: Slack's own limit
_LONG = 1400  # of the text in one block, so that all of them are far below Slack's limit
_COMMANDS = 2500
_FALLBACK = 600  # of the text that notifications show
_TEXT = 3000  # of a message that is text alone
_STACK = 2900  # of a stack: Slack takes 3,000 characters in most texts
_WHEN = "{date_short_pretty} {time_secs}"

Block = dict[str, object]
Element = dict[str, object]


def escape(text: str) -> str:
    """Text that Slack shows as it is: no mention, link or channel can be made of it.

    Slack's three control characters become entities; it makes links of anything else only when
    asked to (`parse`, `link_names`), which we never do.
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def fallback(text: Text) -> str:
    """The message in one or two sentences: what notifications and screen readers have."""
    return escape(cut(text.brief or text.headline, _FALLBACK))


def without_blocks(text: Text) -> str:
    """The whole message as text, for when Slack takes no blocks."""
    return escape("\n".join(_fit(as_text(text).split("\n"), _TEXT)))


def blocks(text: Text, buttons: Sequence[Block] = ()) -> list[Block]:
    """The message as at most ten blocks, besides those of the buttons."""
    built = [_header(text.headline)]
    summary = [[_bold(cut(text.summary, _LONG))]] if text.summary else []
    built += _rich([*summary, *map(_point, text.points)])
    now = [_point(Point("Now", text.done))] if text.done else []
    ends = [_point(text.ends)] if text.ends else []
    back = [[_plain(text.way_back)]] if text.way_back else []
    page = [[_bold("Page: "), _link(text.page)]] if text.page else []
    built += _rich([*now, *ends, *back, *page])
    built += _rich([_point(Point("What to do", text.advice))] if text.advice else [])
    built += buttons
    built += _listed("Evidence", text.evidence)
    built += _rich([[_bold(f"{label}: "), _code(value)] for label, value in text.facts])
    more = [f"and {text.more_alerts} more"] if text.more_alerts else []
    built += _listed("Alerts", (*_fit(text.alerts, _LONG), *more))
    built += _commands(text)
    if text.footer:
        footer = {"type": "plain_text", "text": cut(text.footer, _LONG), "emoji": False}
        built.append({"type": "context", "elements": [footer]})
    return built


def whole(title: str, text: str) -> list[Block]:
    """A piece of evidence with all that it says: its title, and its text as it is."""
    shown = plain_lines(text, _STACK)
    return [
        _rich_text(_line([_bold(cut(title, _LONG))]), *([_preformatted(shown)] if shown else []))
    ]


def fits(text: str) -> bool:
    """Whether `whole` leaves nothing of it out."""
    return len(plain_lines(text, len(text) + 1)) <= _STACK


def _header(headline: str) -> Block:
    text = {"type": "plain_text", "text": cut(headline, _HEADER), "emoji": False}
    return {"type": "header", "text": text}


def _commands(text: Text) -> list[Block]:
    width = max((len(command.line) for command in text.commands), default=0)
    lines = [f"{command.line.ljust(width)}  # {command.effect}" for command in text.commands]
    if not lines or sum(map(len, lines)) > _COMMANDS:
        return []  # half a command is worse than none; `sentinel status` shows them all
    where = _line(
        [_bold("By hand"), _plain(", on "), _code(text.host or "the daemon's host"), _plain(":")]
    )
    return [_rich_text(where, _preformatted("\n".join(lines)))]


def _listed(title: str, lines: Sequence[str]) -> list[Block]:
    if not lines:
        return []
    items = [_line([_plain(line)]) for line in lines]
    bullets: Element = {"type": "rich_text_list", "style": "bullet", "elements": items}
    return [_rich_text(_line([_bold(title)]), bullets)]


def _point(point: Point) -> list[Element]:
    value = f"{cut(point.value, _LONG)} " if point.value and point.moment else point.value
    said = [_plain(cut(value, _LONG))] if value else []
    when = [_moment(point.moment)] if point.moment is not None else []
    return [_bold(f"{point.label}: "), *said, *when]


def _moment(seconds: float) -> Element:
    """A moment in the reader's own time; in UTC where Slack cannot do that."""
    return {"type": "date", "timestamp": int(seconds), "format": _WHEN, "fallback": utc(seconds)}


def _link(url: str) -> Element:
    """The one thing in a message that leads anywhere: its address is the daemon's own."""
    return {"type": "link", "url": url, "text": "all of the incident"}


def _plain(text: str) -> Element:
    return {"type": "text", "text": text}


def _bold(text: str) -> Element:
    return {"type": "text", "text": text, "style": {"bold": True}}


def _code(text: str) -> Element:
    return {"type": "text", "text": text, "style": {"code": True}}


def _line(elements: Sequence[Element]) -> Element:
    return {"type": "rich_text_section", "elements": [*elements]}


def _preformatted(text: str) -> Element:
    return {"type": "rich_text_preformatted", "elements": [_plain(text)]}


def _rich_text(*elements: Element) -> Block:
    return {"type": "rich_text", "elements": [*elements]}


def _rich(lines: Sequence[Sequence[Element]]) -> list[Block]:
    """One block of these lines; none if there are none."""
    inner: list[Element] = []
    for line in lines:
        inner += [_plain("\n"), *line] if inner else line
    return [_rich_text(_line(inner))] if inner else []


def _fit(lines: Sequence[str], limit: int) -> list[str]:
    """As many whole lines as fit, the first one cut if need be."""
    kept: list[str] = []
    length = 0
    for line in lines:
        length += len(line) + 1
        if length > limit:
            break
        kept.append(line)
    return kept or [cut(line, limit) for line in lines[:1]]
