"""Uploads to the loopback workspace, in the three steps that Slack wants, in their order.

1. files.getUploadURLExternal: a file is announced, with its name and length; an address comes back.
2. Its bytes are posted to that address, without a token.
3. files.completeUploadExternal: the file is shared in a channel, or in a thread of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sentinel.notify.loopback_message import Answer, Fields, File, SlackError

_LARGEST = 1 << 30  # bytes
_SNIPPET = 1 << 20  # bytes of what is shown as text
_ALT_TEXT = 1000  # characters


@dataclass(frozen=True)
class Shared:
    """Files that have just been shared in a channel, or in a thread of it."""

    channel: str
    thread_ts: str | None
    comment: str
    files: tuple[File, ...]


@dataclass(frozen=True)
class _Upload:
    file: File
    length: int
    arrived: bool = False


class Files:
    """`may_share(channel, thread_ts)` raises `SlackError` where files cannot be shared.

    `url` is where bytes are posted to, once the server listens.
    """

    def __init__(
        self, may_share: Callable[[str, str | None], None], share: Callable[[Shared], None]
    ) -> None:
        self.url = ""
        self._may_share = may_share
        self._share = share
        self._uploads: dict[str, _Upload] = {}
        self._count = 0

    def offer(self, fields: Fields) -> Answer:
        """files.getUploadURLExternal."""
        name, length = str(fields.get("filename") or ""), str(fields.get("length") or "")
        if not name or not length.isdigit() or int(length) < 1:
            raise SlackError("invalid_arguments")
        alt_text = str(fields.get("alt_txt") or "")
        if len(alt_text) > _ALT_TEXT:
            raise SlackError("alt_txt_too_large")
        snippet = fields.get("snippet_type")
        if int(length) > _LARGEST:
            raise SlackError("file_upload_size_restricted")
        if snippet is not None and int(length) > _SNIPPET:
            raise SlackError("snippet_too_large")
        self._count += 1
        key = f"F0LOOPBACK{self._count}"
        self._uploads[key] = _Upload(File(key, name, name, b"", alt_text), int(length))
        return {"upload_url": self.url + key, "file_id": key}

    def take(self, key: str, data: bytes) -> int | None:
        """The bytes of a file; None if it was not announced like this."""
        upload = self._uploads.get(key)
        if upload is None or upload.arrived or len(data) != upload.length:
            return None
        file = replace(upload.file, data=data)
        self._uploads[key] = replace(upload, file=file, arrived=True)
        return len(data)

    def complete(self, fields: Fields) -> Answer:
        """files.completeUploadExternal."""
        wanted = fields.get("files")
        if not isinstance(wanted, list) or not wanted:
            raise SlackError("invalid_arguments")
        files = tuple(self._arrived(one) for one in wanted)
        channel, thread_ts = fields.get("channel_id"), fields.get("thread_ts")
        if channel:
            self._may_share(str(channel), str(thread_ts) if thread_ts else None)
        for file in files:
            del self._uploads[file.id]
        if channel:
            comment = str(fields.get("initial_comment") or "")
            self._share(Shared(str(channel), str(thread_ts) if thread_ts else None, comment, files))
        return {"files": [{"id": file.id, "title": file.title} for file in files]}

    def _arrived(self, wanted: object) -> File:
        key = wanted.get("id") if isinstance(wanted, dict) else None
        upload = self._uploads.get(str(key))
        if upload is None or not upload.arrived:
            raise SlackError("file_not_found")
        title = wanted.get("title") if isinstance(wanted, dict) else None
        return replace(upload.file, title=str(title or upload.file.name))
