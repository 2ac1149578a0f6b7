"""What Slack would refuse in a message, and with which error.

Blocks are checked by the Slack SDK's own models of them, and by the limits in Slack's reference of
Block Kit that those models leave out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import msgspec
from slack_sdk.errors import SlackObjectFormationError
from slack_sdk.models.blocks import Block

from sentinel.notify.loopback_message import Message

_TEXT = 40_000  # characters of a message's text
_BLOCKS = 50
_BLOCK_TEXT = 11_000  # characters in all blocks; undocumented: Slack has refused 11,341
_FIELD = 2000  # characters of a section's field
_OBJECT = 3000  # characters of any text object
_METADATA = 16_000  # bytes


def refusal(message: Message) -> str | None:
    """The error with which Slack would refuse this message, or None."""
    if not message.text and not message.blocks:
        return "no_text"
    if len(message.text) > _TEXT:
        return "msg_too_long"
    if len(message.blocks) > _BLOCKS or not all(map(_is_allowed, message.blocks)):
        return "invalid_blocks"
    if not (_are_unique(message.blocks, "block_id") and _are_unique_actions(message.blocks)):
        return "invalid_blocks"
    if sum(len(text) for block in message.blocks for text in _texts(block)) > _BLOCK_TEXT:
        return "msg_blocks_too_long"
    return _metadata_refusal(message.metadata)


def _metadata_refusal(metadata: object) -> str | None:
    if metadata is None:
        return None
    if not (
        isinstance(metadata, dict)
        and isinstance(metadata.get("event_type"), str)
        and isinstance(metadata.get("event_payload"), dict)
    ):
        return "invalid_metadata_format"
    return "metadata_too_large" if len(msgspec.json.encode(metadata)) > _METADATA else None


def _is_allowed(block: object) -> bool:
    """Whether the SDK's model takes this block, and has a place for everything in it."""
    if not isinstance(block, dict):
        return False
    try:
        parsed = Block.parse(block)
        whole = parsed is not None and parsed.to_dict() == block
    except (SlackObjectFormationError, AttributeError, KeyError, TypeError, ValueError):
        return False
    fields = block.get("fields") or []
    return (
        whole
        and _is_plain_where_it_must_be(block)
        and all(0 < len(text) <= _OBJECT for text in _texts(block))
        and all(len(text) <= _FIELD for field in fields for text in _texts(field))
    )


def _is_plain_where_it_must_be(block: dict[str, object]) -> bool:
    """Headers and buttons have no formatting."""
    elements = block.get("elements")
    inner = [one for one in elements if isinstance(one, dict)] if isinstance(elements, list) else []
    texts = [one.get("text") for one in (block, *inner) if one.get("type") in ("header", "button")]
    return all(isinstance(text, dict) and text.get("type") == "plain_text" for text in texts)


def _are_unique(parts: tuple[object, ...] | list[object], name: str) -> bool:
    named = [part[name] for part in parts if isinstance(part, dict) and name in part]
    return len(set(map(str, named))) == len(named)


def _are_unique_actions(blocks: tuple[object, ...]) -> bool:
    """Within each block; what is in no block's `elements` has none that could be the same."""
    lists = (block.get("elements") for block in blocks if isinstance(block, dict))
    return all(_are_unique(elements, "action_id") for elements in lists if elements)


def _texts(part: object) -> Iterator[str]:
    """The texts anywhere in a part of a message."""
    if isinstance(part, dict):
        text = part.get("text")
        inner = chain.from_iterable(map(_texts, part.values()))
        yield from chain([text] if isinstance(text, str) else [], inner)
    elif isinstance(part, list):
        yield from chain.from_iterable(map(_texts, part))
