"""Who may see the page: the token, sessions, and which hosts and origins a request may name.

A token is sent once, in the body of a form. What a browser keeps is the random number of a session, in a cookie that no
script can read. Nothing of either is ever part of a URL or of a message.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import stat
import time
from collections import OrderedDict, deque
from pathlib import Path
from typing import Callable
from urllib.parse import urlsplit

from lcr_edge.errors import UsageError

MIN_TOKEN = 16  # characters
_MAX_TOKEN = 1024
_SESSION_S = 12 * 3600.0
_MAX_SESSIONS = 64
_WRONG_S = 60.0  # in so many seconds an address may send so many wrong tokens, and all addresses together
_WRONG_OF_ONE, _WRONG_OF_ALL = 5, 60

Clock = Callable[[], float]


def read_token(path: str, warn: Callable[[str], None]) -> str:
    """The token in a file, white space around it left out. warn: is told if other users can read the file.

    Raises UsageError for a file that cannot be read and for a token that is too short, too long or not one line.
    """
    try:
        with Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_MAX_TOKEN + 1).decode("utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"cannot read --web-token-file {path}: {reason}") from None
    if not MIN_TOKEN <= len(text) < _MAX_TOKEN or not text.isprintable():
        raise UsageError(
            f"--web-token-file {path} must hold one line of {MIN_TOKEN} to {_MAX_TOKEN - 1} characters; "
            f"make one: python3 -c 'import secrets; print(secrets.token_urlsafe())' > {path}"
        )
    if stat.S_ISREG(mode) and mode & 0o077:
        warn(f"warning: other users of this machine can read {path}; chmod 600 {path}")
    return text


class Access:
    """Checks tokens and keeps sessions. For one thread.

    token: None lets everyone in. origin: under which a reverse proxy shows the page, as ``https://camera.example``;
    None without one. loopback: whether only this machine reaches the page. clock: seconds.
    """

    def __init__(
        self, token: str | None, *, loopback: bool, origin: str | None = None, clock: Clock = time.monotonic
    ) -> None:
        self._token = None if token is None else _digest(token)
        self._loopback, self._origin, self._clock = loopback, origin, clock
        self._sessions: OrderedDict[str, float] = OrderedDict()
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._wrong_of_all: deque[float] = deque(maxlen=_WRONG_OF_ALL)

    @property
    def is_open(self) -> bool:
        """Whether there is no token."""
        return self._token is None

    def wait_s(self, address: str) -> float:
        """Seconds until this address may send a token; 0.0 now."""
        now = self._clock()
        of_one = self._wrong.get(_network(address), deque())
        waits = [
            times[0] + _WRONG_S - now
            for times, most in ((of_one, _WRONG_OF_ONE), (self._wrong_of_all, _WRONG_OF_ALL))
            if len(times) == most
        ]
        return max([0.0, *waits])

    def log_in(self, token: str, address: str) -> str | None:
        """A new session if the token is right and the address may send one, else None."""
        if self._token is None or self.wait_s(address) > 0:
            return None
        # Digests of one length: the time of the comparison says nothing about the token, nor about its length.
        if not hmac.compare_digest(_digest(token), self._token):
            self._note_wrong(_network(address))
            return None
        session = secrets.token_urlsafe(32)
        self._sessions[session] = self._clock() + _SESSION_S
        while len(self._sessions) > _MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return session

    def log_out(self, session: str | None) -> None:
        """Forget a session."""
        self._sessions.pop(session or "", None)

    def allows(self, session: str | None) -> bool:
        """Whether a session is valid, or none is needed."""
        if self._token is None:
            return True
        ends = self._sessions.get(session or "")
        if ends is not None and ends <= self._clock():
            self.log_out(session)
            return False
        return ends is not None

    def knows_host(self, host: str) -> bool:
        """Whether a request may name this host, "name:port". On loopback only the names of this machine may be named:
        a page from elsewhere whose name was made to point here (DNS rebinding) names its own."""
        if self._origin is not None and host == urlsplit(self._origin).netloc:
            return True
        return not self._loopback or is_loopback(_without_port(host))

    def knows_origin(self, origin: str | None, host: str) -> bool:
        """Whether a request that changes something comes from the page itself: browsers say where one comes from."""
        return origin is not None and (origin == f"http://{host}" or origin == self._origin)

    def _note_wrong(self, network: str) -> None:
        times = self._wrong.setdefault(network, deque(maxlen=_WRONG_OF_ONE))
        self._wrong.move_to_end(network)
        for noted in (times, self._wrong_of_all):
            noted.append(self._clock())
        while len(self._wrong) > _WRONG_OF_ALL:  # none of those that go can have had a wrong token of the last minute
            self._wrong.popitem(last=False)


def check_origin(origin: str) -> str:
    """An origin as browsers write it. Raises UsageError."""
    found = re.fullmatch(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?/?", origin.lower())
    if found is None:
        raise UsageError(f"--web-origin {origin!r} must be the address in the browser, as https://camera.example")
    standard = {"http": ":80", "https": ":443"}[found[1]]
    return f"{found[1]}://{found[2]}{'' if found[3] in (None, standard) else found[3]}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, reached by itself: "localhost" or a loopback address."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _without_port(host: str) -> str:
    return re.sub(r":[0-9]*$", "", host) if "[" in host or host.count(":") == 1 else host


def _network(address: str) -> str:
    """Who one is for the count of wrong tokens: an IPv4 address, or the 64 bits of IPv6 that a household has."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found.packed[:8] + bytes(8), 64)))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
