"""Where the files of an output are to stand: whether they can, told before anything is read or sent."""

from __future__ import annotations

import os
import stat
from enum import Enum
from pathlib import Path

from dify_batch.errors import UsageError
from dify_batch.ledger.formats import Paths
from dify_batch.text import show


class Kind(Enum):
    """What is found under a name."""

    NOTHING = "nothing"
    FILE = "a file"
    FOLDER = "a folder"
    PIPE = "a pipe"
    SOCKET = "a socket"
    DEVICE = "a device"
    LINK = "a symbolic link"
    HIDDEN = "hidden"  # its folder may not be entered


def kind_of(path: Path, *, follow: bool = True) -> Kind:
    """Never raises, and never opens anything, which might wait for ever."""
    try:
        mode = os.stat(path, follow_symlinks=follow).st_mode
    except PermissionError:
        return Kind.HIDDEN
    except (OSError, ValueError):
        return Kind.NOTHING  # not there, or whoever opens it says why it cannot be
    for test, kind in (
        (stat.S_ISREG, Kind.FILE),
        (stat.S_ISDIR, Kind.FOLDER),
        (stat.S_ISFIFO, Kind.PIPE),
        (stat.S_ISSOCK, Kind.SOCKET),
        (stat.S_ISLNK, Kind.LINK),
    ):
        if test(mode):
            return kind
    return Kind.DEVICE


def same_file(one: Path, other: Path) -> bool:
    """Whether two names lead to one file, be it there or not."""
    try:
        if os.path.realpath(one) == os.path.realpath(other):
            return True
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def require_folder(path: Path, what: str) -> None:
    """Raises UsageError where the folder of a file that is to be written is none, or may not be entered."""
    folder = path.absolute().parent
    kind = kind_of(folder)
    if kind is Kind.FOLDER and kind_of(path) is Kind.HIDDEN:
        kind = Kind.HIDDEN
    if kind is Kind.HIDDEN:
        raise UsageError(
            f"{what}: the folder {folder} may not be entered by this user",
            hint=f"give a folder of your own, or have its owner type: chmod u+rwx,go+x '{folder}'",
        )
    if kind is not Kind.FOLDER:
        raise UsageError(f"{path}: there is no folder {folder}", hint=f"make it first: mkdir -p '{folder}'")


def require_regular(path: Path, what: str) -> None:
    """Raises UsageError for what is there and is no regular file, before anything waits for a FIFO or reads a device
    without end. What may not be looked at is told by whoever opens it."""
    kind = kind_of(path)
    if kind in (Kind.NOTHING, Kind.FILE, Kind.HIDDEN):
        return
    if kind is Kind.FOLDER:
        text, hint = "is a folder", f"give a file, such as -o {path / 'results.jsonl'}"
    else:
        text, hint = f"is {kind.value}, and results go to a regular file", "give a file, such as -o results.jsonl"
    raise UsageError(f'{what}: "{path}" {text}', hint=hint, code="usage_invalid_flag")


_TABLES = frozenset({".csv", ".tsv", ".xlsx", ".xls", ".ods", ".json", ".parquet", ".db", ".sqlite"})
_LONGEST = ".superseded"  # what is added to the name of the results, at most
_DATED = ".20250101T000000Z"  # and what --overwrite adds besides
_NAME_MAX = 255  # bytes, where the system does not tell


def require_output(output: Path, source: str, *, overwrite: bool = False) -> Paths:
    """The files of an output that a batch may write to.

    Args:
        source: the input, "-" for standard input.

    Raises:
        UsageError: the place will not do; nothing has been read, made or sent.
    """
    require_folder(output, "--output")
    require_regular(output, "--output")
    paths = Paths.of(output)
    require_folder(paths.results, "--output")
    _require_short_name(paths.results, _LONGEST + (_DATED if overwrite else ""))
    _require_companions(paths)
    if kind_of(paths.results) is Kind.FILE and os.stat(paths.results).st_nlink > 1:
        raise UsageError(
            f"{paths.results} has another name as well (a hard link), under which it would be another output",
            hint=f"make it a file of its own: cp '{paths.results}' x.tmp && mv x.tmp '{paths.results}'",
            code="usage_invalid_flag",
        )
    if source != "-":
        for path in paths.all:
            if same_file(path, Path(source)):
                raise UsageError(
                    f"--input: {show(source, 200)} is a file of the output itself",
                    hint="give the table as -i, and the results a name of their own as -o",
                    code="usage_invalid_flag",
                )
    if output.suffix.lower() in _TABLES and kind_of(paths.results) is Kind.NOTHING:
        raise UsageError(
            f"--output: {show(str(output), 200)} is named like a {output.suffix} file, and results are JSON lines",
            hint=f"-o {output.with_suffix('.jsonl')}; then: "
            f"dify-batch export {output.with_suffix('.jsonl')} -o {output.with_suffix('.csv')}",
            code="usage_invalid_flag",
        )
    return paths


def _require_short_name(path: Path, added: str) -> None:
    try:
        most = os.pathconf(path.absolute().parent, "PC_NAME_MAX") if hasattr(os, "pathconf") else _NAME_MAX
    except (OSError, ValueError):
        most = _NAME_MAX
    length = len(os.fsencode(path.name)) + len(added)
    if length > most:
        raise UsageError(
            f"--output: the name is too long: with {_LONGEST} and the like beside it, it has {length} bytes, "
            f"and {most} are possible",
            hint="give a shorter name, such as -o results.jsonl",
            code="usage_invalid_flag",
        )


def _require_companions(paths: Paths) -> None:
    for path in paths.all:
        kind = kind_of(path, follow=False)
        if path == paths.results or kind in (Kind.NOTHING, Kind.FILE, Kind.HIDDEN):
            continue
        raise UsageError(
            f"{path} is {kind.value}, and belongs to the output as a regular file",
            hint="remove it or put the file itself there, or give another -o",
            code="usage_invalid_flag",
        )


def require_ours(paths: Paths, strange: list[str]) -> None:
    """Raises UsageError where results hold lines that are none of ours: what is done is known, or nothing is sent."""
    if not strange:
        return
    more = f", and {len(strange) - 1} more such lines" if len(strange) > 1 else ""
    raise UsageError(
        f"{strange[0]} of this program{more}, so it is not known which rows are done; nothing was sent",
        hint=f"is {paths.results} the file that you mean? If so, write each result on a line of its own, in UTF-8, "
        'with its id and "status": "success"; or take the lines out; or start over with --overwrite, which keeps the '
        "old file",
        code="usage_invalid_flag",
    )
