"""Those who are told: what a message says, how Slack gets it, and that it gets it once."""

from sentinel.notify.dispatcher import Backoff, Dispatcher
from sentinel.notify.receiver import Receiver
from sentinel.notify.slack import SlackReceiver

__all__ = ["Backoff", "Dispatcher", "Receiver", "SlackReceiver"]
