"""What is done to the outbox as a whole: at a start, and now and then."""

from __future__ import annotations

import sqlite3

KEPT = 30 * 86_400.0  # s that a row is kept once it has come to its end
_PRUNED = 1000  # rows at once, so that nobody waits for it


def recover(connection: sqlite3.Connection, now: float) -> None:
    """At start: what was being sent when the last daemon ended has an unknown fate.

    What waits for another attempt is tried at once, and what comes from the future (the clock has
    been set back since) is brought to the present, or it would wait until then.
    """
    connection.execute("UPDATE outbox SET state = 'pending', doubtful = 1 WHERE state = 'sending'")
    connection.execute(
        "UPDATE outbox SET next_attempt = 0 WHERE state = 'pending' AND attempts > 0"
    )
    connection.execute(
        "UPDATE outbox SET next_attempt = next_attempt - (created_at - :now), "
        "due_at = due_at - (created_at - :now), created_at = :now "
        "WHERE state = 'pending' AND created_at > :now",
        {"now": now},
    )
    connection.execute(
        "UPDATE outbox SET claimed_at = :now WHERE state = 'pending' AND claimed_at > :now",
        {"now": now},
    )


def prune(connection: sqlite3.Connection, now: float) -> None:
    """Forget rows that came to their end long ago, some at a time.

    Kept is what an incident has that is open or still has something to be sent: its later
    messages belong to the thread of the first.
    """
    connection.execute(
        """
        DELETE FROM outbox WHERE id IN (
            SELECT id FROM outbox old WHERE created_at < ?
            AND state NOT IN ('pending', 'sending')
            AND NOT EXISTS (
                SELECT 1 FROM incidents i WHERE i.id = old.incident AND i.state = 'open'
            )
            AND NOT EXISTS (
                SELECT 1 FROM outbox other WHERE other.incident = old.incident
                AND other.state IN ('pending', 'sending')
            )
            ORDER BY created_at LIMIT ?
        )
        """,
        (now - KEPT, _PRUNED),
    )
