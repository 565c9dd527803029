"""``--web`` and its options: where the page is served, and who may see it."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import socket
import sys
from typing import TYPE_CHECKING

from lcr_edge.errors import MissingExtraError, UsageError
from lcr_edge.runtimes.live.web.access import Access, check_origin, is_loopback, read_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lcr_edge.runtimes.api import Model
    from lcr_edge.runtimes.live.web.server import Page

_HERE = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--web``, ``--web-token-file`` and ``--web-origin``."""
    web = parser.add_argument_group("page")
    web.add_argument(
        "--web",
        metavar="[HOST:]PORT",
        help=f"serve a page to watch the run with a browser (HOST: {_HERE}, this machine alone; others need a token)",
    )
    web.add_argument("--web-token-file", metavar="FILE", help="the page asks for the token in this file")
    web.add_argument(
        "--web-origin",
        metavar="URL",
        help="the page's address in the browser, if a reverse proxy is in front of it: https://camera.example",
    )


def open_page(args: argparse.Namespace, names: Sequence[str], model: Model) -> Page | None:
    """The page that ``--web`` asks for, its port taken and nothing served yet; None without ``--web``.

    Raises UsageError (options, address, port in use, permission) and MissingExtraError.
    """
    planned = plan(args)
    if planned is None:
        return None
    family, address, access = planned
    server = importlib.import_module("lcr_edge.runtimes.live.web.server")
    bound = _bound(family, address, args.web)
    page: Page = server.Page(bound, access, names, model.labels, engine=model.engine.name, with_events=args.events)
    return page


def plan(args: argparse.Namespace) -> tuple[int, tuple[object, ...], Access] | None:
    """Address family, address and who may see it: what can be told before the port is taken. None without ``--web``.

    Raises UsageError and MissingExtraError.
    """
    if args.web is None:
        for option in ("web_token_file", "web_origin"):
            if getattr(args, option) is not None:
                raise UsageError(f"--{option.replace('_', '-')} is about the page: add --web PORT")
        return None
    host, port = parse_address(args.web)
    origin = None if args.web_origin is None else check_origin(args.web_origin)
    family, address = _resolved(host, port)
    loopback = is_loopback(str(address[0]).partition("%")[0])
    if args.web_token_file is None and not loopback:
        raise UsageError(
            f"--web {args.web} shows the cameras to everyone in the network: add --web-token-file FILE, "
            f"or leave the address out"
        )
    if args.web_token_file is None and origin is not None:
        raise UsageError("--web-origin shows the cameras to everyone who finds the proxy: add --web-token-file FILE")
    token = None
    if args.web_token_file is not None:
        token = read_token(args.web_token_file, lambda text: print(text, file=sys.stderr, flush=True))
    try:
        importlib.import_module("aiohttp")
    except ImportError as error:
        raise MissingExtraError("aiohttp", "service", "--web") from error
    return family, address, Access(token, loopback=loopback, origin=origin)


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of "8080", "0.0.0.0:8080" or "[::]:8080". Raises UsageError."""
    found = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.%\w]+\]|[^\s:\[\]/@]+):)?([0-9]{1,5})", text)
    if found is None or int(found[2]) > 65535:
        raise UsageError(f"--web {text!r} is not an address: give a port, as 8080, or HOST:PORT")
    return (found[1] or _HERE).strip("[]"), int(found[2])


def _resolved(host: str, port: int) -> tuple[int, tuple[object, ...]]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a host name"
        raise UsageError(f"--web: the host {host!r} is not known ({reason}); give an address of this machine") from None
    return family, address


def _bound(family: int, address: tuple[object, ...], shown: str) -> socket.socket:
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart must not wait for old connections
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        found.bind(address)
        found.listen()
        found.setblocking(False)
    except OSError as error:
        found.close()
        raise UsageError(f"--web {shown}: {_reason(error)}") from None
    return found


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program uses this port; choose another one"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "this user may not open this port; choose one from 1024 on"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have this address; 0.0.0.0 stands for all that it has"
    return f"{error.strerror or os.strerror(error.errno or 0)}; choose another address"
