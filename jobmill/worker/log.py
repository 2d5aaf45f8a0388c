"""The log: one line per change, readable or JSON, from every process into one place (its stderr)."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import TextIO

# what could move a terminal's cursor or turn text around; words of users come into this log
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class _Line(logging.Formatter):
    def __init__(self, role: str, *, as_json: bool) -> None:
        super().__init__()
        self._role = role
        self._json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields = {k: v for k, v in record.__dict__.items() if k not in _KNOWN}
        message = record.getMessage()
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        if self._json:
            head = {
                "time": round(record.created, 3),
                "level": record.levelname.lower(),
                "process": f"{self._role}[{record.process}]",
                "message": message,
            }
            return json.dumps(head | fields, default=str)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        extra = "".join(f" {k}={v}" for k, v in fields.items() if k != "traceback")
        trace = "\n" + str(fields["traceback"]) if "traceback" in fields else ""
        words = _CONTROL.sub("?", f"{message}{extra}{trace}").replace("\n", "\n    ")  # only a process begins a line
        return f"{stamp}.{int(record.msecs):03d} {self._role}[{record.process}] {record.levelname.lower()}: {words}"


def configure(role: str, *, level: str = "info", as_json: bool = False, stream: TextIO | None = None) -> logging.Logger:
    """Set up this process's log on stderr and return its logger."""
    logger = logging.getLogger("jobmill")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Line(role, as_json=as_json))
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
    return logger
