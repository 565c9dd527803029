"""Addresses of receivers, with their credentials: read once, sent to that receiver alone, and never shown."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from lcr_edge.errors import UsageError

_LARGEST_SECRET = 65_536


@dataclass(frozen=True)
class Address:
    """Where a receiver is. shown: scheme, host and port, for people. target: path and query, which may hold a secret.

    user, password: out of the address, decoded; None where there are none.
    """

    scheme: str
    host: str
    port: int
    shown: str
    target: str = field(repr=False)
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)


def parse_address(text: str, option: str, ports: dict[str, int]) -> Address:
    """Parse a URL. ports: the schemes that are allowed, with their usual ports. Raises UsageError without the URL."""
    example = f"{next(iter(ports))}://host:port"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # its message would show the address
        raise UsageError(f"{option} is not an address: check host and port; write it like {example}") from None
    if parts.scheme not in ports:
        raise UsageError(f"{option} takes addresses that begin with {' or '.join(f'{name}://' for name in ports)}")
    if not parts.hostname or port == 0 or not text.isascii() or any(sign <= " " or sign == "\x7f" for sign in text):
        raise UsageError(f"{option} is not an address: no host, a space or a letter that must be written as %XX")
    port = ports[parts.scheme] if port is None else port
    return _address(parts, port)


def _address(parts: SplitResult, port: int) -> Address:
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return Address(parts.scheme, host, port, f"{parts.scheme}://{shown}:{port}", target, user, password)


def read_secret(path: str, option: str) -> str:
    """The one line of a file, without its end. Raises UsageError, which names the option and never the secret."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(_LARGEST_SECRET + 1)
        text = data.decode("utf-8").rstrip("\r\n")
    except OSError as error:
        raise UsageError(f"{option}: cannot read {path}: {error.strerror or error}") from error
    except ValueError:  # not UTF-8; a null byte in the name
        raise UsageError(f"{option}: {path!r} is not a text file with one line") from None
    if not text or len(data) > _LARGEST_SECRET or any(sign < " " or sign == "\x7f" for sign in text):
        raise UsageError(f"{option}: {path} must hold one line, the secret, and nothing else")
    return text


def tls_context(ca_file: str | None, option: str) -> ssl.SSLContext:
    """A context that checks certificates and names: by the system's authorities, or by those in a file. UsageError."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it holds no certificate in PEM form"
        raise UsageError(f"{option}: cannot use {ca_file}: {reason}") from error


def why(error: Exception) -> str:
    """What went wrong with a connection, for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails ({error.reason or error.__class__.__name__}); is it the right port?"
    if isinstance(error, (TimeoutError, socket.timeout)):  # two classes on Python 3.9
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or str(error) or error.__class__.__name__
    return f"{error.__class__.__name__}"
