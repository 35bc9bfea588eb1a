"""What all runs of an output have used: those of its results, of results that were replaced, and failed ones.

Read where a budget, an estimate or a status needs it. A line costs a glance at its end, where the figures stand.
"""

from __future__ import annotations

import re

from dify_batch.ledger import formats
from dify_batch.ledger.records import journal_record
from dify_batch.ledger.state import lines_of
from dify_batch.strictjson import json_object
from dify_batch.usage import Total, Use

# From total_tokens to the end of a line: no braces or backslashes, so it is no part of an answer that looks alike.
_END = re.compile(rb'"total_tokens": ?(?:null|\d+),[^{}\\]*\}\s*\Z')
_GLANCE = 600  # bytes: more than the figures and names at the end of a line ever take


def spent(paths: formats.Paths) -> Total:
    """The sum; raises StorageError where a file cannot be read."""
    total = Total()
    superseded = paths.results.with_name(paths.results.name + ".superseded")
    for path in (paths.results, superseded):
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
    match = _END.search(line, max(0, len(line) - _GLANCE))
    return Use.of(json_object(b"{" + match[0] if match else line) or {})
