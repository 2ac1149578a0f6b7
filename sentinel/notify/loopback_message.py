"""A message in the loopback workspace, and how a person would read it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

Fields = Mapping[str, object]
Answer = dict[str, object]

_MARKUP = re.compile(r"<[^>]*>?")
_CALLING = ("user", "usergroup", "broadcast", "channel", "team", "link")  # in rich text


class SlackError(Exception):
    """An answer of `{"ok": false, "error": code}`, with what else is in it."""

    def __init__(self, code: str, **more: str) -> None:
        super().__init__(code)
        self.answer: Answer = {"error": code, **more}


@dataclass(frozen=True)
class File:
    """A file that was uploaded. `alt_text` is what is read out in place of a picture."""

    id: str
    name: str
    title: str
    data: bytes
    alt_text: str = ""


@dataclass(frozen=True)
class Message:
    """One message. `metadata` and `blocks` are as they came; `edited`: it was changed since."""

    channel: str
    channel_name: str
    ts: str
    text: str
    blocks: tuple[object, ...] = ()
    thread_ts: str | None = None
    broadcast: bool = False
    metadata: object = None
    edited: bool = False
    files: tuple[File, ...] = ()

    @classmethod
    def made_of(cls, fields: Fields, channel: str, channel_name: str, ts: str) -> Message:
        """What a chat.postMessage asks for."""
        thread_ts = fields.get("thread_ts")
        return cls(
            channel=channel,
            channel_name=channel_name,
            ts=ts,
            text=str(fields.get("text") or ""),
            blocks=_tuple(fields.get("blocks")),
            thread_ts=str(thread_ts) if thread_ts else None,
            broadcast=str(fields.get("reply_broadcast")) in ("True", "true", "1"),
            metadata=fields.get("metadata"),
        )

    def changed_by(self, fields: Fields) -> Message:
        """What a chat.update makes of it: metadata stays unless it is given anew."""
        return replace(
            self,
            text=str(fields.get("text") or ""),
            blocks=_tuple(fields.get("blocks")),
            metadata=fields.get("metadata", self.metadata),
            edited=True,
        )

    def as_json(self, *, with_metadata: bool = True) -> dict[str, object]:
        """As Slack's API shows it."""
        shown: dict[str, object] = {
            "type": "message",
            "user": "U0LOOPBACK",
            "bot_id": "B0LOOPBACK",
            "ts": self.ts,
            "text": self.text,
            "blocks": list(self.blocks),
        }
        if self.thread_ts:
            shown["thread_ts"] = self.thread_ts
        if self.files:
            shown["files"] = [{"id": one.id, "name": one.name} for one in self.files]
        if with_metadata and self.metadata:
            shown["metadata"] = self.metadata
        return shown

    def as_text(self) -> str:
        """As a person reads it: its blocks as lines, or its text where it has none."""
        parts = [part for block in self.blocks for part in _shown(block)]
        return "\n".join(parts or [_read(self.text)])

    def mentions(self) -> list[str]:
        """What Slack may turn into mentions, channels or links: `<!channel>`, `<@U1>` ...

        In plain and rich text it looks for none: there they are elements of their own.
        """
        marked = [self.text, *(str(one["text"]) for one in self._elements("mrkdwn"))]
        return [found for part in marked for found in _MARKUP.findall(part)] + [
            kind for kind in _CALLING for _ in self._elements(kind)
        ]

    def _elements(self, kind: str) -> list[Fields]:
        return [found for block in self.blocks for found in _walk(block) if found["type"] == kind]


def _walk(part: object) -> Iterator[Fields]:
    """All that has a type, in a part of a message and all that is in it."""
    if isinstance(part, dict):
        if "type" in part:
            yield part
        for inner in part.values():
            yield from _walk(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _walk(inner)


def _shown(block: object) -> list[str]:
    """A block as lines, in reading order."""
    if not isinstance(block, dict):
        return []
    elements = [one for one in _tuple(block.get("elements")) if isinstance(one, dict)]
    if block.get("type") == "rich_text":
        return [line for element in elements for line in _rich_lines(element)]
    own = [block["text"]] if isinstance(block.get("text"), dict) else []
    texts = [_of_object(one) for one in (*own, *elements)]
    fields = [one for one in _tuple(block.get("fields")) if isinstance(one, dict)]
    return texts + [": ".join(_of_object(one).split("\n")) for one in fields]


def _of_object(element: Fields) -> str:
    """A text object, or the label of a button."""
    text = element.get("text")
    if isinstance(text, dict):
        return f"[{_of_object(text)}]"
    return _read(str(text)) if element.get("type") == "mrkdwn" else str(text or "")


def _rich_lines(element: Fields) -> list[str]:
    """What one element of rich text shows."""
    parts = [one for one in _tuple(element.get("elements")) if isinstance(one, dict)]
    if element.get("type") == "rich_text_list":
        return [f"• {line}" for part in parts for line in _rich_lines(part)]
    said = "".join(str(one.get("text", one.get("fallback", ""))) for one in parts)
    return said.split("\n")


def _read(text: str) -> str:
    """mrkdwn without its marks, entities as characters."""
    text = re.sub(r"^\*(.+?)\*", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"```(.*?)```", r"\1", text, flags=re.DOTALL)
    text = re.sub(r"`(.*?)`", r"\1", text)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _tuple(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list) else ()
