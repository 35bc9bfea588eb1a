"""What the files of an output say, read by the contract and not by the product's own code."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BOM = b"\xef\xbb\xbf"


@dataclass
class Files:
    """`results`: whole lines in order. `journal`: whole records. `torn`: files whose last line has no end. `bad`: lines
    that are no JSON objects. `place`: of each row that the journal knows: "open", "paused", "retry", "free", "done"."""

    results: list[dict[str, Any]] = field(default_factory=list)
    retry: list[str] = field(default_factory=list)
    paused: list[dict[str, Any]] = field(default_factory=list)
    journal: list[dict[str, Any]] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    place: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> dict[str, dict[str, Any]]:
        return {line["id"]: line for line in self.results}

    @property
    def twice(self) -> list[str]:
        counts = Counter(line["id"] for line in self.results)
        return [row for row, count in counts.items() if count > 1]

    def where(self, row: str) -> str:
        """ "done", "retry", "paused", "open" or "untouched"."""
        if row in self.done:
            return "done"
        place = self.place.get(row, "free")
        if place in ("open", "paused"):
            return place
        if place in ("retry", "done") or row in self.retry:
            return "retry" if place != "done" else "open"
        return "untouched"


def read(output: Path) -> Files:
    files = Files()
    for name, lines in (("", files.results), (".paused", files.paused), (".journal", files.journal)):
        path = output.with_name(output.name + name)
        if path.exists():
            lines += _objects(path, files)
    retry = output.with_name(output.name + ".retry")
    if retry.exists():
        text = retry.read_bytes().removeprefix(BOM).decode("utf-8")
        files.retry = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    failed: set[str] = set()
    for record in files.journal:
        _fold(record, files.place, failed)
    return files


def _objects(path: Path, files: Files) -> list[dict[str, Any]]:
    data = path.read_bytes().removeprefix(BOM)
    *whole, rest = data.split(b"\n")
    if rest:
        files.torn.append(path.name)
    found = []
    for number, line in enumerate(whole, 1):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            found.append(value)
        else:
            files.bad.append(f"{path.name}, line {number}: {line[:60]!r}")
    return found


def _fold(record: dict[str, Any], place: dict[str, str], failed: set[str]) -> None:
    row = record.get("id")
    if not isinstance(row, str):
        return
    match record.get("event"):
        case "sent" | "held":
            place[row] = "open"
        case "started":
            place[row] = "open"
            failed.discard(row)
        case "unsent" | "refused" | "absent":
            place[row] = "retry" if row in failed else "free"
        case "paused":
            place[row] = "paused"
        case "failed":
            place[row] = "retry"
            failed.add(row)
        case "superseded":
            place[row] = "free"  # its result went out of the results, so that it runs again
        case "done" if "copy_of" in record:
            place[row] = "free"  # where its result is lost: it ran nothing
            failed.discard(row)
        case "done":
            place[row] = "done"
