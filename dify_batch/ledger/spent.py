"""What all runs of an output have used: those of its results, of results that were replaced, and failed ones.

Read where a budget, an estimate or a status needs it. A line costs a glance at its end, where the figures stand.
"""

from __future__ import annotations

import math
import re

from dify_batch.ledger import formats
from dify_batch.ledger.records import journal_record
from dify_batch.ledger.state import lines_of
from dify_batch.strictjson import json_object
from dify_batch.usage import Total, Use, parse_price

# The figures at the end of a line. Within them no brace or backslash: it is no part of an answer that looks alike.
_END = re.compile(
    rb'"elapsed_time": (null|[-+.\deE]+), "total_tokens": (null|\d+), "total_steps": (?:null|\d+), '
    rb'"task_id": (?:null|"[^"\\{}]*")'
    rb'(?:, "total_price": (?:null|"([^"\\{}]*)"), "currency": (?:null|"([^"\\{}]*)"))?'
    rb'(?:, "workflow_id": (?:null|"[^"\\{}]*"))?(?:, "trace_id": (?:null|"[\w-]*"))?'
    rb'(?:, "queue_time": (null|[-+.\deE]+))?\}\s*\Z'
)
_GLANCE = 600  # bytes: more than the figures and names at the end of a line ever take


_NOTHING = Use(0)


def spent(paths: formats.Paths, *, but_results: bool = False) -> Total:
    """The sum; raises StorageError where a file cannot be read. `but_results`: for whoever reads the results anyway,
    and adds the `use_of_line` of each."""
    total = Total()
    superseded = paths.results.with_name(paths.results.name + ".superseded")
    for path in (superseded,) if but_results else (paths.results, superseded):
        for line, _ in lines_of(path):
            if formats.result_id(line) is not None:
                total.add(use_of_line(line))
    for line, _ in lines_of(paths.journal):
        if line.startswith(b'{"event":"spent"'):
            record = journal_record(line)
            if record is not None:
                total.add(Use.of(record))
    return total


def use_of_line(line: bytes) -> Use:
    """The use that a line of the results tells."""
    return figures_of_line(line)[0]


def figures_of_line(line: bytes) -> tuple[Use, float | None, float | None]:
    """What a line of the results tells of its run: its use, seconds that it worked, and that it waited to start."""
    if formats.is_copy(line):
        return _NOTHING, None, None
    match = _END.search(line, max(0, len(line) - _GLANCE))
    if match is None:
        record = json_object(line) or {}
        return Use.of(record), seconds_of(record.get("elapsed_time")), seconds_of(record.get("queue_time"))
    elapsed, tokens, price, currency, queue = match.groups()
    use = Use(
        None if tokens == b"null" else int(tokens),
        None if price is None else parse_price(price.decode("utf-8", "replace")),
        currency.decode("utf-8", "replace") or None if currency is not None else None,
    )
    return use, _number(elapsed), _number(queue)


def _number(text: bytes | None) -> float | None:
    try:
        return None if text is None else seconds_of(float(text))
    except ValueError:  # null
        return None


def seconds_of(value: object) -> float | None:
    """A time of a record; None for what is none."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return float(value) if number else None  # type: ignore[arg-type]
