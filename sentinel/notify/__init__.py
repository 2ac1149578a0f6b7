"""Those who are told: what a message says, how Slack gets it, and that it gets it once."""
