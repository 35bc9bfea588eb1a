"""What to type next, in one place for the end of a batch and for its status. Pure.

A command is whole: it repeats the flags of the invocation that decide what happens, so that pasting it changes neither
policy nor delimiter. The journal holds them for whoever asks later.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dify_batch.text import count


@dataclass(frozen=True, slots=True)
class Step:
    """A sentence and the command that it ends with."""

    text: str
    command: str

    def one_line(self) -> str:
        return f"{self.text}: {self.command}"

    def two_lines(self) -> tuple[str, str]:
        return f"{self.text}:", f"    {self.command}"


@dataclass(frozen=True, slots=True)
class Call:
    """The call of a batch. `flags`: those that decide, as words (`flagwords.again`). `results`: the file that the
    results are in, where it is not `output` itself, but one of its parts."""

    source: str
    output: str
    flags: Sequence[str] = ()
    results: str = ""

    @property
    def file(self) -> str:
        return self.results or self.output

    def again(self, *more: str) -> str:
        """The same command, with `more` flags."""
        command = shlex.join(["dify-batch", "-i", self.source, "-o", self.output, *self.flags, *more])
        return f"… | {command}" if self.source == "-" else command  # only the person knows what it was

    def without(self, flag: str) -> Call:
        """The same without a flag that has a value."""
        flags = list(self.flags)
        while flag in flags:
            at = flags.index(flag)
            del flags[at : at + 2]
        return replace(self, flags=flags)

    def status(self) -> str:
        return shlex.join(["dify-batch", "status", self.file])


@dataclass(frozen=True, slots=True)
class Left:
    """How many rows are left, by what they wait for. `dead`: of those under way, how many have a run that is probably
    dead. `killed`: the last batch did not end by itself."""

    to_retry: int = 0
    to_answer: int = 0
    expired: int = 0
    under_way: int = 0
    dead: int = 0
    untouched: int = 0
    killed: bool = False
    see_why: bool = False


def steps(call: Call, left: Left) -> list[Step]:
    """What to do about each of them, what needs a person first."""
    found = []
    if left.to_answer:
        waits = count(left.to_answer, "row waits", "rows wait")
        ask = shlex.join(["dify-batch", "answer", call.file])
        how = f"{waits} for a person: {ask} asks for each, {call.file}.paused says how to answer; then collect with"
        found.append(Step(how, call.again()))
    if left.expired:
        rows = count(left.expired, "row")
        found.append(Step(f"{rows} with an expired form; how the run ended is collected by", call.again()))
    if left.under_way:
        goes = count(left.under_way, "row", "rows")
        found.append(Step(f"{goes} under way; collect with, later", call.again()))
    if left.dead:
        are = count(left.dead, "run is", "runs are")
        words = f"{are} probably dead, as the server or a worker was away; to give up now what began over a minute ago"
        found.append(Step(words, call.without("--stuck-after").again("--stuck-after", "1m")))
    if left.killed:
        found.append(Step("the last batch did not end by itself; go on with", call.again()))
    elif left.untouched:
        found.append(Step(f"{count(left.untouched, 'row')} not sent yet; go on with", call.again()))
    if left.to_retry:
        rows = count(left.to_retry, "row is", "rows are")
        if left.see_why:
            found.append(Step(f"{rows} in {call.file}.retry; to see why", call.status()))
            found.append(Step("run what failed again, once the cause is gone", call.again("--retry")))
        else:
            found.append(Step(f"{rows} to run again, once the cause is gone", call.again("--retry")))
    return found
