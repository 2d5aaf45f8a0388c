"""``python -m tests.fuzz.parser``: libFuzzer looks for bytes that break the reading of documents, by coverage.

All of libFuzzer's flags: ``-runs=100000 -seed=1``, ``-max_total_time=600`` (seconds), a folder to keep what it finds.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["jobmill"]):
    from tests.fuzz import claims

from tests.fuzz.corpus import TOKENS, corpus, mutated

SLOW = 2.0  # CPU seconds of a reading of at most 64 KiB, instrumented; plain it is less than a quarter of that


def one(data: bytes) -> None:
    """Check one input."""
    seconds = claims.check(data)
    assert seconds < SLOW, f"{seconds:.2f} s for {len(data)} bytes"


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """Let libFuzzer and our own mutator, which knows documents, take turns."""
    if seed % 2:
        return atheris.Mutate(data, most)  # type: ignore[no-any-return]
    return mutated(Random(seed), data)[:most]


def escaped(token: bytes) -> str:
    """Return bytes as a dictionary of libFuzzer has them."""
    return "".join(f"\\x{byte:02x}" for byte in token)


def main() -> None:
    """Run until a flag says stop; an input that breaks a claim is written to ``crash-…`` in this folder."""
    with tempfile.TemporaryDirectory() as made:
        seeds, words = Path(made) / "seeds", Path(made) / "words"
        seeds.mkdir()
        for number, data in enumerate(corpus()):
            (seeds / str(number)).write_bytes(data)
        words.write_text("".join(f'"{escaped(token)}"\n' for token in TOKENS if token))
        flags = [f"-dict={words}", f"-max_len={claims.LIMIT}", "-timeout=20", "-rss_limit_mb=4096"]
        folders = [word for word in sys.argv[1:] if not word.startswith("-")]
        given = [word for word in sys.argv[1:] if word.startswith("-")]
        atheris.Setup([sys.argv[0], *flags, *given, *folders, str(seeds)], one, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
