"""The journal is written anew without what nobody needs any more: most of its lines are of rows that are done.

Lines are left out, none is changed or moved, so what is kept means what it meant. Of a row that has its result stay:
- its `done`, as somebody may cut the results, and then the run is fetched and not made again;
- what it used on the way (`spent`), and a person's answers to its forms;
- its `sent`, where a look-up could take its run for that of a row whose answer was lost: they have the same `user`.
All lines stay of any other row, of the last runs that started (how long a start takes, and that work is taken up), and
of ids in `.retry`.

The new file takes the place of the old one in one step: whenever it is cut short, one whole journal is there.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from dify_batch.ids import DONE, SEEN
from dify_batch.ledger import formats
from dify_batch.ledger.appendfile import whole_length
from dify_batch.ledger.disk import PRIVATE, Disk
from dify_batch.ledger.identity import Identity
from dify_batch.ledger.records import journal_record
from dify_batch.ledger.state import DELAYS_KEPT, Phase, State, lines_of

# A journal below so many bytes is read in a moment.
_SMALL = 1 << 20
# So many times what it says is too much, whatever goes on; where nothing goes on, twice.
_GROWN = 10
_GROWN_AND_DONE = 2
# Heads of so many invocations stay. That a copy went on elsewhere is told by the names of those of the last hour.
_HEADS = 1000

_KEPT_WHEN_DONE = frozenset({b"done", b"spent", b"answer", b"answered"})
# After these a row may belong into `.retry`.
_RESTS = frozenset({b"failed", b"unsent", b"refused", b"absent"})
_USER = re.compile(rb'"user":"([^"\\]*)"')
_MODE = re.compile(rb'"mode":"([a-z]*)"')


def worth_it(state: State) -> bool:
    """Whether the journal that `read_state` has read is to be written anew."""
    size, says = state.journal_size, state.journal_size - state.journal_spare
    if size < _SMALL:
        return False
    return size >= _GROWN * says or (size >= _GROWN_AND_DONE * says and _at_rest(state))


def _at_rest(state: State) -> bool:
    """Whether no row has a run that is under way, or may be."""
    return all(
        row.phase is Phase.FREE or (row.phase is Phase.FAILED and row.kind != "unknown") for row in state.rows.values()
    )


def compact(paths: formats.Paths, state: State, disk: Disk, *, own: Callable[[str], bool]) -> None:
    """Writes the journal anew. `own`: whether a user is one that this package gives its slots.

    To be called while the output is locked and the journal not open. Raises OSError, and StorageError where the journal
    is not to be read as one; then the old one is there.
    """
    whole_length(paths.journal)
    kept = _Kept(paths, state, own)
    with disk.replacing(paths.journal, PRIVATE) as new:
        for line, _ in lines_of(paths.journal):
            if kept.keeps(line):
                new.write(line + b"\n")
    state.index.clear(SEEN)


class _Kept:
    """Which lines stay. Its first pass over the journal finds what depends on what comes later.

    Uses the flag SEEN of the index: the row has a `done` that holds.
    """

    def __init__(self, paths: formats.Paths, state: State, own: Callable[[str], bool]) -> None:
        self._index = state.index
        self._own = own
        self._users = {row.user.encode("utf-8", "surrogatepass") for row in state.rows.values()}
        # A message of a chat is found by its user and its conversation alone.
        self._talks = any(one.mode not in (None, "workflow") for one in state.before)
        self._whole: set[str] = set(state.retry_seen) | state.asked
        self._heads: set[int] = set()
        self._retry_files = 0
        self._head = 0
        self._head_stays = True
        self._given = False  # --user, to the invocation whose lines are read
        self._told: tuple[bool, bool] | None = None
        self._failed = False  # since the last `retry_file`
        state.index.clear(SEEN)
        self._look(paths)

    def _look(self, paths: formats.Paths) -> None:
        index = self._index
        identities: list[tuple[Identity, str]] = []
        heads: deque[int] = deque(maxlen=_HEADS)
        begun: deque[str] = deque(maxlen=DELAYS_KEPT)
        mode_of: dict[str, bytes] = {}
        last_of: dict[bytes, str] = {}
        number = 0
        for line, _ in lines_of(paths.journal):
            head = formats.journal_head(line)
            if head is None:
                if line.startswith(_BATCH):
                    number += 1
                    heads.append(number)
                    record = journal_record(line) or {}
                    what = Identity.of_record(record), str(record.get("input_path") or record.get("input", ""))
                    if what not in identities:
                        identities.append(what)
                        self._heads.add(number)
                elif line.startswith(_RETRY_FILE):
                    self._retry_files += 1
                continue
            event, name = head
            row_id = name.decode("utf-8", "replace")
            if event == b"sent":
                found = _MODE.search(line)
                mode_of[row_id] = found[1] if found else b""
            elif event == b"started":
                if b'"found":true' not in line:
                    begun.append(row_id)
                    last_of[mode_of.pop(row_id, b"")] = row_id
            elif event == b"done" and index.has(row_id, DONE):
                index.add(row_id, SEEN)
            elif event == b"superseded":
                index.remove(row_id, SEEN)
        self._heads.update(heads)
        self._whole.update(begun, last_of.values())

    def keeps(self, line: bytes) -> bool:
        """Whether a line stays; to be asked of all lines in their order."""
        head = formats.journal_head(line)
        if head is None:
            return self._keeps_other(line)
        event, row_id = head[0], head[1].decode("utf-8", "replace")
        stays = self._keeps(line, event, row_id)
        self._failed = self._failed or (stays and event in _RESTS)
        return stays

    def _keeps(self, line: bytes, event: bytes, row_id: str) -> bool:
        if not self._index.has(row_id, DONE) or not self._index.has(row_id, SEEN) or row_id in self._whole:
            return True
        if event in _KEPT_WHEN_DONE:
            return True
        if event == b"sent":
            found = _USER.search(line)
            shared = self._talks or self._given or _SHARED in line
            return shared or not found or found[1] in self._users or not self._own(found[1].decode())
        return event == b"started" and (self._talks or b'"conversation":' in line)

    def _keeps_other(self, line: bytes) -> bool:
        if line.startswith(_BATCH):
            self._head += 1
            self._given = b'"--user"' in line
            told = b'"again":' in line, self._given  # what it says of the users of the lines after it
            self._head_stays = self._head in self._heads or told != self._told
            if self._head_stays:
                self._told = told
            return self._head_stays
        if line.startswith(_END):
            return self._head_stays
        if line.startswith(_RETRY_FILE):  # which rows it holds: those that had failed before
            self._retry_files -= 1
            stays, self._failed = self._failed or self._retry_files == 0, False
            return stays
        self._failed = True  # a line that is spelled in another way may tell anything
        return True


_BATCH, _END = b'{"event":"batch",', b'{"event":"end",'
_RETRY_FILE = b'{"event":"retry_file"'
_SHARED = b'"shared":true'
