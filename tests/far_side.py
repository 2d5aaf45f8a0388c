"""A program in the place of a far host's Python that says what a test wants: a host which is broken, or not ours."""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = r"""#!{python} -IS
import base64, json, os, re, sys, time
first = b""
while not first.endswith(b"\n"):
    first += os.read(0, 1)
source = base64.b64decode(re.search(rb'b"([^"]+)"', first)[1])
nonce, folder, digest, size, program, spool, words = eval(source.rsplit(b"main(*", 1)[1].strip()[:-1])
FACTS = dict(home="/root", folder="/x", spool="/x/s", library="/x/l", python="p", version="3", host="evil", user="u",
             path="/bin", cores=4)

def say(text):
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    while data:
        data = data[os.write(1, data):]

def ready(facts=FACTS):
    say("\njobmill-ready %s %s\n" % (nonce, facts if isinstance(facts, str) else json.dumps(facts)))

def questions():
    for line in os.fdopen(0, "rb", 0):
        yield json.loads(line)

def commands():
    for line in os.fdopen(0, "rb", 0):
        word, _, rest = line.strip().partition(b" ")
        yield word.decode(), rest.partition(b" ")[0].decode()

"""


def far_side(path: Path, text: str) -> str:
    """Write the program, which has `program`, `say`, `ready`, `questions`, `commands`; return its path."""
    path.write_text(PROGRAM.replace("{python}", sys.executable) + text)
    path.chmod(0o755)
    return str(path)
