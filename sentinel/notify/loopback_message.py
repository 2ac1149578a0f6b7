"""A message in the loopback workspace: what Slack would take, and how a person would read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

Fields = Mapping[str, object]

_TEXT = 40_000
_BLOCKS = 50
_SECTION = 3000
_FIELD = 2000
_FIELDS = 10
_MARKUP = re.compile(r"<[^>]*>?")


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
        if with_metadata and self.metadata:
            shown["metadata"] = self.metadata
        return shown

    def as_text(self) -> str:
        """As a person reads it: its blocks as lines, or its text where it has none."""
        parts = [part for block in self.blocks for part in _texts(block)]
        return "\n".join(_read(part) for part in parts or [self.text])

    def mentions(self) -> list[str]:
        """What Slack may turn into mentions, channels or links: `<!channel>`, `<@U1>` ..."""
        parts = [self.text, *(part for block in self.blocks for part in _texts(block))]
        return [found for part in parts for found in _MARKUP.findall(part)]


def refusal(message: Message) -> str | None:
    """The error with which Slack would refuse this message, or None."""
    if not message.text and not message.blocks:
        return "no_text"
    if len(message.text) > _TEXT:
        return "msg_too_long"
    if len(message.blocks) > _BLOCKS or not all(map(_is_allowed, message.blocks)):
        return "invalid_blocks"
    metadata = message.metadata
    if metadata is not None and not (
        isinstance(metadata, dict)
        and isinstance(metadata.get("event_type"), str)
        and isinstance(metadata.get("event_payload"), dict)
    ):
        return "invalid_metadata_format"
    return None


def _is_allowed(block: object) -> bool:
    """Whether Slack would take this block: the kinds we use, with their limits."""
    if not isinstance(block, dict):
        return False
    if block.get("type") == "context":
        elements = block.get("elements")
        return isinstance(elements, list) and 0 < len(elements) <= 10
    if block.get("type") != "section":
        return False
    text, fields = block.get("text"), block.get("fields")
    if text is None and not fields:
        return False
    if text is not None and not _is_text(text, _SECTION):
        return False
    return fields is None or (
        isinstance(fields, list)
        and 0 < len(fields) <= _FIELDS
        and all(_is_text(field, _FIELD) for field in fields)
    )


def _is_text(element: object, limit: int) -> bool:
    return (
        isinstance(element, dict)
        and element.get("type") in ("mrkdwn", "plain_text")
        and isinstance(element.get("text"), str)
        and 0 < len(element["text"]) <= limit
    )


def _texts(block: object) -> list[str]:
    """The texts of a block in reading order."""
    if not isinstance(block, dict):
        return []
    inner = [block.get("text"), *_tuple(block.get("elements"))]
    texts = [str(element["text"]) for element in inner if isinstance(element, dict)]
    fields = [element for element in _tuple(block.get("fields")) if isinstance(element, dict)]
    return texts + [": ".join(str(field["text"]).split("\n")) for field in fields]


def _read(text: str) -> str:
    """mrkdwn without its marks, entities as characters."""
    text = re.sub(r"^\*(.+?)\*", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"```(.*?)```", r"\1", text, flags=re.DOTALL)
    text = re.sub(r"`(.*?)`", r"\1", text)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _tuple(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list) else ()
