"""A message in the loopback workspace, and how a person would read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

Fields = Mapping[str, object]
Answer = dict[str, object]

_MARKUP = re.compile(r"<[^>]*>?")
_DATE = re.compile(r"<!date\^\d+\^[^^|>]*\|([^<>]*)>")  # which calls nobody, and links nowhere


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
        parts = [part for block in self.blocks for part in _texts(block)]
        return "\n".join(_read(part) for part in parts or [self.text])

    def mentions(self) -> list[str]:
        """What Slack may turn into mentions, channels or links: `<!channel>`, `<@U1>` ...

        Moments, which Slack shows in the reader's own time, are none of these.
        """
        parts = [self.text, *(part for block in self.blocks for part in _texts(block))]
        return [found for part in parts for found in _MARKUP.findall(_DATE.sub("", part))]


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
    text = re.sub(r"^\*(.+?)\*", r"\1", _DATE.sub(r"\1", text), flags=re.MULTILINE)
    text = re.sub(r"```(.*?)```", r"\1", text, flags=re.DOTALL)
    text = re.sub(r"`(.*?)`", r"\1", text)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _tuple(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list) else ()
