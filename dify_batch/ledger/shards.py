"""The outputs of a batch that runs in parts: their names, which of them there are, and that all have the same number.

For `-o results.jsonl --shard 3/16` the files are `results.3of16.jsonl`, `results.3of16.jsonl.retry` and so on. All
parts of one output are its set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from dify_batch.errors import UsageError
from dify_batch.ids import Shard, shard_of
from dify_batch.ledger.formats import Paths
from dify_batch.text import count, listed, show

_NAME = re.compile(r"(?P<stem>.+)\.(?P<number>\d{1,5})of(?P<of>\d{1,5})(?P<suffix>\.[^.]*)?", re.ASCII)
_BESIDE = re.compile(r"\.(?:retry|paused|superseded|journal)\Z")


def shard_path(output: Path, shard: Shard) -> Path:
    """Where the results of one part of `output` go."""
    return output.with_name(f"{output.stem}.{shard.name}{output.suffix}")


def part_of(path: Path) -> tuple[Path, Shard | None]:
    """The output and the part that a file of results belongs to; (path, None) for one that bears no part's name."""
    match = _NAME.fullmatch(path.name)
    if match is None or not 1 <= int(match["number"]) <= int(match["of"]):
        return path, None
    return path.with_name(match["stem"] + (match["suffix"] or "")), Shard(int(match["of"]), int(match["number"]))


def parts_of(output: Path) -> list[Shard]:
    """The parts of an output that have a file, in order; of each number of parts that there is."""
    found: set[Shard] = set()
    try:
        names = os.listdir(output.absolute().parent)
    except OSError:
        return []
    for name in names:
        base, shard = part_of(output.with_name(_BESIDE.sub("", name)))
        if shard is not None and base.name == output.name:
            found.add(shard)
    return sorted(found)


def outputs_of(output: Path) -> list[Path]:
    """The files that hold the results of `output`: itself, or those of its parts.

    Raises:
        UsageError: there are parts of several numbers, so that it is not known which of them are meant.
    """
    if any(path.exists() for path in Paths.of(output).data):
        return [output]
    parts = parts_of(output)
    if not parts:
        return [output]
    _one_number(output, parts)
    return [shard_path(output, shard) for shard in parts]


def output_with(output: Path, row_id: str) -> Path:
    """The file that holds a row's result, if it has one: `output` itself, or that of its part. Raises UsageError."""
    outputs = outputs_of(output)
    shard = part_of(outputs[0])[1]
    if outputs == [output] or shard is None:
        return output
    return shard_path(output, Shard(shard.of, shard_of(row_id, shard.of)))


def whole_set(output: Path) -> list[tuple[Shard, Path]]:
    """All parts of an output.

    Raises:
        UsageError: it has none, or not all of them, or parts of several numbers.
    """
    parts = parts_of(output)
    if not parts:
        raise UsageError(
            f"{output} has no parts here, such as {shard_path(output, Shard(16, 1))}",
            hint="give the -o of the batch that was run with --shard",
            code="usage_invalid_flag",
        )
    _one_number(output, parts)
    of = parts[0].of
    missing = sorted(set(range(1, of + 1)) - {shard.number for shard in parts})
    if missing:
        are = count(len(missing), "part is", "parts are")
        raise UsageError(
            f"{output}: {are} missing of {of}: {listed([f'{number}/{of}' for number in missing])}",
            hint=f"run each first, with --shard I/{of}; or bring its files here",
            code="usage_invalid_flag",
        )
    return [(shard, shard_path(output, shard)) for shard in parts]


def _one_number(output: Path, parts: Sequence[Shard]) -> None:
    numbers = sorted({shard.of for shard in parts})
    if len(numbers) > 1:
        example = " and ".join(str(shard_path(output, next(s for s in parts if s.of == of))) for of in numbers[:2])
        raise UsageError(
            f"{output} stands there in {numbers[0]} parts and in {numbers[1]} ({example}): rows of one would be rows "
            "of the other",
            hint="move the files of one of them to a folder of their own",
            code="usage_invalid_flag",
        )


def require_same_parts(output: Path, shard: Shard | None) -> None:
    """A row belongs to one part, and that for good: one output is never run in another number of parts, nor as a whole.

    Raises:
        UsageError: it has been; nothing was sent.
    """
    base, named = part_of(output)
    if named is not None and (parts := parts_of(base)):
        raise UsageError(
            f"{show(str(output), 200)} is the file of part {named}, and {base} has {count(len(parts), 'part')} here",
            hint=f"-o {base} --shard {named}; or give another -o",
            code="usage_invalid_flag",
        )
    parts = parts_of(output)
    if shard is None:
        if parts:
            raise UsageError(
                f"{output} was begun in {parts[0].of} parts, such as {shard_path(output, parts[0])}; as a whole its "
                "rows would run again",
                hint=f"add --workers N, or --shard I/{parts[0].of}; or give another -o; for one file of the parts: "
                f"dify-batch merge {output} -o all.jsonl",
                code="usage_invalid_flag",
            )
        return
    others = [part for part in parts if part.of != shard.of]
    if others:
        raise UsageError(
            f"{output} was begun in {others[0].of} parts, such as {shard_path(output, others[0])}; in {shard.of} its "
            "rows would run again",
            hint=f"give --shard I/{others[0].of}, or another -o",
            code="usage_invalid_flag",
        )
    if any(path.exists() for path in (Paths.of(output).results, Paths.of(output).journal)):
        raise UsageError(
            f"{output} was begun as a whole; in parts its rows would run again",
            hint="leave --shard or --workers out, or give another -o",
            code="usage_invalid_flag",
        )
