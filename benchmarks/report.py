"""``python -m benchmarks.report``: tables and pictures of docs/performance.md, from the raw results beside it.

What stands between ``<!-- name -->`` and ``<!-- end -->`` is written anew; the prose around it stays. The pictures are
docs/pictures/*.svg. ``--check`` writes nothing, and fails when page, pictures and results do not fit together.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import benchmark_tables, budget_tables, guest_tables, pictures
from benchmarks.results import PAGE, Result, read

Results = Mapping[str, Result]


def render(page: str, results: Results) -> str:
    """Return the page with every table written anew; raise LookupError where a mark is missing."""
    for name, make in TABLES.items():
        block = f"<!-- {name} -->\n{make(results)}\n<!-- end -->"
        page, count = re.subn(rf"<!-- {name} -->\n.*?<!-- end -->", block.replace("\\", r"\\"), page, flags=re.DOTALL)
        if count != 1:
            raise LookupError(f"{PAGE}: `<!-- {name} -->` … `<!-- end -->` stands there {count} times, wanted once")
    return page


TABLES: Mapping[str, Callable[[Results], str]] = {
    "targets": budget_tables.targets,
    "budget": budget_tables.budget,
    "scripts": budget_tables.scripts,
    "machine": budget_tables.machine,
    "journey": budget_tables.journey,
    "decisions": budget_tables.bought,
    "local": benchmark_tables.local,
    "latency": benchmark_tables.latency,
    "pipeline": benchmark_tables.pipeline,
    "admission": benchmark_tables.admission,
    "scale": benchmark_tables.scale,
    "polling": benchmark_tables.polling,
    "footprint": benchmark_tables.footprint,
    "guest": guest_tables.guest,
    "hostile": guest_tables.hostile,
}


def wanted(page: Path) -> dict[Path, str | None]:
    """Return what each file of the report has to hold; None: it has to be gone, its result is not there."""
    results = read(page.with_suffix(""))
    drawn = pictures.draw(results)
    found: dict[Path, str | None] = {page: render(page.read_text(), results)}
    found |= {page.parent / "pictures" / f"{name}.svg": drawn.get(name) for name in pictures.PICTURES}
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Write, or check; exit with 1 where a file is not what the results make of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, tell what is out of date")
    parser.add_argument("--page", type=Path, default=PAGE, help="another page, with its own results and pictures")
    given = parser.parse_args(words)
    try:
        files = wanted(given.page)
    except (ValueError, LookupError, OSError) as error:
        print(f"no report: {error}", file=sys.stderr)
        return 1
    stale = [path for path, text in files.items() if (path.read_text() if path.exists() else None) != text]
    if given.check:
        for path in stale:
            print(f"{path} is not what the results make of it; python -m benchmarks.report", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        text = files[path]
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
