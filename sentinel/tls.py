"""Encrypted connections over TCP: what both ends ask of each other.

TLS 1.2 or newer. The one who connects verifies certificate and host name, always.
"""

from __future__ import annotations

import os
import socket
import ssl

from sentinel.address import TlsAddress
from sentinel.errors import AddressError

CONNECT_TIMEOUT = 10.0  # s for the connection, and as long again for the handshake

# A peer whose host is gone answers nothing, for ever: the kernel gives it up after this.
_UNANSWERED = 20_000  # ms that what was sent may stay unacknowledged
_IDLE, _PROBE_EVERY, _PROBES = 10, 5, 3  # s, s, probes


def client_context(ca: str | None = None) -> ssl.SSLContext:
    """Trusts the system's authorities, or those in the file `ca` or $SENTINEL_CA alone.

    Raises `AddressError` when that file holds no certificate.
    """
    ca = ca or os.environ.get("SENTINEL_CA") or None
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:  # an SSLError too
        raise AddressError(
            f"{ca}: no certificate authority can be read ({why(error)}): expected a PEM file"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """Shows this certificate (a PEM file, with what leads to its authority) under this key.

    Raises `AddressError` when one of them cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # a peer that only writes would have to read them before it leaves
    for path in (certificate, key):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise AddressError(f"{path} cannot be read ({error.strerror or error})") from error
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except OSError as error:
        raise AddressError(
            f"{certificate} and {key} are no certificate and its key ({why(error)}): expected two "
            "PEM files, the key without a password"
        ) from error
    return context


def connect(address: TlsAddress) -> ssl.SSLSocket:
    """A verified connection, in blocking mode. May take as long as names take to be looked up.

    Raises `OSError` when nobody answers or what answers cannot be trusted, and `AddressError` as
    `client_context`.
    """
    plain = socket.create_connection((address.host, address.port), CONNECT_TIMEOUT)
    try:
        keep_alive(plain)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client_context().wrap_socket(plain, server_hostname=address.host)
    except BaseException:
        plain.close()
        raise


def keep_alive(connection: socket.socket) -> None:
    """Have the kernel notice within half a minute that the peer's host or the way to it is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, _IDLE),
        (socket.TCP_KEEPINTVL, _PROBE_EVERY),
        (socket.TCP_KEEPCNT, _PROBES),
        (socket.TCP_USER_TIMEOUT, _UNANSWERED),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def why(error: OSError) -> str:
    """What went wrong, in few words: OpenSSL's own are long."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return error.strerror or str(error)
