"""The daemon: sockets, HTTP and wiring around the engine."""
