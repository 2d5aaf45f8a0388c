"""Addresses without their secrets, for people, logs and errors."""

from __future__ import annotations

import re

_SECRET = re.compile(r"(?i)((?:password|passwd|secret|token)=)[^&#]*")


def mask(url: str) -> str:
    """Return ``url`` with its password, and anything like one among its parameters, replaced by ``***``."""
    scheme, slashes, rest = url.partition("://")
    # the last '@' of all: a password may hold '@', '/', '?' and '#', and too much hidden is better than too little
    login, at, place = ("", "", rest) if rest.startswith("/") else rest.rpartition("@")  # unix:///path has no login
    if at:
        user, colon, _ = login.partition(":")
        login = f"{user}:***" if colon else "***"
    return scheme + slashes + login + at + _SECRET.sub(r"\1***", place)
