"""What goes into a thread in Slack besides messages: evidence in code blocks, and files.

Files need the scope `files:write`. Without it there are no charts, and of a long stack its middle
is left out; that is said in the log once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from slack_sdk.errors import SlackRequestError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from sentinel.errors import DeliveryError
from sentinel.notify.appendix import Attachment
from sentinel.notify.blocks import escape, fits, whole
from sentinel.notify.message import title
from sentinel.notify.notice import Evidence
from sentinel.notify.plain import plain_lines
from sentinel.notify.receiver import Letter, Place

_log = logging.getLogger(__name__)
_SNIPPET = 200_000  # characters; Slack's own limit for what it shows as text is 1 MB
_ALT = 1000  # characters: Slack's own limit
_REFUSED = frozenset({"missing_scope", "not_allowed_token_type", "no_permission"})

Call = Callable[[Callable[[], Awaitable[AsyncSlackResponse]]], Awaitable[AsyncSlackResponse]]
Labels = Callable[[Letter, str], Mapping[str, object]]


class SlackThread:
    """See `appendix.Thread`."""

    def __init__(self, client: AsyncWebClient, call: Call, labels: Labels) -> None:
        """`call` makes requests and explains Slack's errors; `labels` are a message's metadata."""
        self._client = client
        self._call = call
        self._labels = labels
        self._no_files = False

    async def tell(self, evidence: Evidence, letter: Letter, head: Place) -> None:
        """Post a piece of evidence: as a code block, or as a file if it is long."""
        if not fits(evidence.text) and not self._no_files:
            text = plain_lines(evidence.text, _SNIPPET)
            name = f"{evidence.kind if evidence.kind.isalpha() else 'evidence'}.txt"
            file = Attachment(name, title(evidence), text.encode(), text=True)
            try:
                if await self.attach(file, head):
                    return
            except DeliveryError as error:
                _log.warning("a long %s is sent without its middle: %s", evidence.kind, error)
        place = letter.notice.incident.evidence.index(evidence)

        async def post() -> AsyncSlackResponse:
            return await self._client.chat_postMessage(
                channel=head.channel,
                thread_ts=head.ts,
                text=escape(title(evidence)),
                blocks=whole(title(evidence), evidence.text),
                metadata=dict(self._labels(letter, f"evidence {place}")),
                mrkdwn=False,
                unfurl_links=False,
                unfurl_media=False,
            )

        await self._call(post)

    async def attach(self, file: Attachment, head: Place) -> bool:
        """Share a file in the thread; False if the bot may not."""
        if self._no_files:
            return False

        async def upload() -> AsyncSlackResponse:
            return await self._client.files_upload_v2(
                filename=file.name,
                content=file.data,
                title=file.title,
                alt_txt=file.alt[:_ALT] or None,
                snippet_type="text" if file.text else None,
                channel=head.channel,
                thread_ts=head.ts,
            )

        try:
            await self._call(upload)
        except SlackRequestError as error:
            raise DeliveryError(f"Slack did not take a file: {error}") from error
        except DeliveryError as error:
            if error.code not in _REFUSED:
                raise
            self._no_files = True
            _log.warning(
                "Slack takes no files from this bot (%s): give it the scope files:write for charts "
                "and whole stacks in threads",
                error.code,
            )
            return False
        return True
