"""Several processes: how many rows a second, what permits cost, how exact the rate is, how soon a part goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from dify_batch.engine.limit import FixedLimit
from dify_batch.engine.work import Work
from dify_batch.scale.messages import Grant, Report, decode, encode
from dify_batch.scale.permits import WorkerPermits
from dify_batch.scale.sharing import Sharing
from dify_batch.seams import REAL
from dify_batch.simulator import Config as Simulated
from dify_batch.simulator import SimulatorProcess
from tests.benchmarks.lines import Line
from tests.benchmarks.processes import Batch, command, server, write_rows
from tests.benchmarks.server import Config
from tests.support.harness import until, write_csv
from tests.support.workerprocs import coordinator, done_ids, part_of_worker

ITEM = "several processes"


def workers(folder: Path, *, quick: bool) -> Iterator[Line]:
    """Against a server that answers at once, and that shares the cores with all of them."""
    rows = 4_000 if quick else 20_000
    write_rows(folder / "rows.csv", rows)
    with server(Config()) as target:
        alone = _fresh(folder, lambda: command(target, folder, rows, "--mode", "blocking", "-c", "64"))
        yield _line("one process", alone, alone)
        for number in (1, 2, 4):
            options = ("--mode", "blocking", "-c", "64", "--workers", str(number))
            ours = _fresh(folder, lambda options=options: command(target, folder, rows, *options))
            yield _line(f"--workers {number}", ours, alone)


def _fresh(folder: Path, measure: object) -> Batch:
    for old in folder.glob("out.*"):
        old.unlink()
    assert callable(measure)
    found = measure()
    assert isinstance(found, Batch)
    return found


def _line(what: str, ours: Batch, alone: Batch) -> Line:
    cpu = ours.cost.cpu / ours.rows * 1e6
    note = f"{ours.rate:,.0f} rows/s, {cpu:.0f} µs of CPU a row; {ours.end_to_end:,.0f} rows/s with start and end"
    return Line(ITEM, f"{what}, 64 in flight, against one process", ours.rate / alone.rate, "×", note=note)


class _Engine:
    """As many places as are wanted, and always more rows."""

    places = 0

    def taken_places(self) -> int:
        return self.places

    def being_looked_up(self) -> int:
        return 0

    def has_rows(self) -> bool:
        return True

    def outage(self) -> str:
        return ""

    def changed(self) -> None:
        pass


def permits(folder: Path, *, quick: bool) -> Iterator[Line]:
    """Both sides of a permit, with their messages; eight rows in each, as 2,000 rows/s in two milliseconds make."""
    for together in (1, 8):
        seconds = asyncio.run(_permit_rounds(2_000 if quick else 20_000, together))
        target = 20.0 if together > 1 else None
        yield Line(
            ITEM, f"permits a row, {together} rows in a message", seconds * 1e6, "µs", target, "most", "of both sides"
        )


async def _permit_rounds(rows: int, together: int) -> float:
    clock = REAL.clock
    own = WorkerPermits(clock, lambda urgent: None)
    engine = _Engine()
    own.attach(engine)
    sharing = Sharing(FixedLimit(together, clock=clock.monotonic), clock)
    sharing.joined(1)
    works = [Work(str(number)) for number in range(together)]

    async def pause(seconds: float) -> None:
        await asyncio.sleep(seconds)

    began = time.process_time()
    for _ in range(rows // together):
        report = decode(encode(own.report()))
        assert isinstance(report, Report)
        sharing.told(1, report)
        for grant in sharing.due()[0].values():
            heard = decode(encode(grant))
            assert isinstance(heard, Grant)
            own.granted(heard)
        for work in works:
            if own.may_take():
                own.took(work)
                engine.places += 1
                await own.use(work, lambda: True, pause)
                engine.places -= 1
                own.let_go(work)
    assert own.used >= rows - together
    return (time.process_time() - began) / rows


def shared_rate(folder: Path, *, quick: bool) -> Iterator[Line]:
    """--rate 100/s over four workers, by the server's clock."""
    seconds = 10 if quick else 60
    rows = seconds * 100 + 1
    write_rows(folder / "rows.csv", rows)
    with server(Config(latency=0.02, record=True)) as target:
        options = ("--rate", "100/s", "-c", "16", "--mode", "blocking", "--workers", "4")
        ours = _fresh(folder, lambda: command(target, folder, rows, *options))
    starts = sorted(ours.stats["starts"])
    off = abs((starts[-1] - starts[0]) / (0.01 * (rows - 1)) - 1)
    spans = [late - early for early, late in zip(starts, starts[100:], strict=False)]
    name = f"--rate 100/s over 4 workers and {seconds} s"
    yield Line(ITEM, f"{name}: off by", 100 * off, "%", 1.0, "most")
    yield Line(ITEM, f"{name}: most above it in any second", 100 * (1 / min(spans) - 1), "%")


def after_death(folder: Path, *, quick: bool) -> Iterator[Line]:
    """From the kill -9 of a worker to the next request of the part that it had."""
    found = []
    with SimulatorProcess(Simulated(latency=0.2, workers=None, linger_after_finish=0.1)) as simulator:
        for number in range(2 if quick else 5):
            here = folder / str(number)
            here.mkdir()
            write_csv(here / "data.csv", 600)
            simulator.reset()
            with coordinator(here, simulator.base_url, "-c", "8") as batch:
                worker, _ = batch.await_workers(2)
                until(lambda here=here: len(done_ids(here)) > 20, "some results")  # type: ignore[misc]
                part = part_of_worker(worker)
                killed = time.monotonic()
                os.kill(worker, signal.SIGKILL)

                def sent_since(part: str = part, killed: float = killed) -> list[float]:
                    runs = (run for run in simulator.ledger() if f"s{part}-" in run["user"])
                    return [run["begun"] for run in runs if run["begun"] > killed + 0.05]

                until(lambda: bool(sent_since()), "the part goes on")
                found.append(min(sent_since()) - killed)
                os.kill(batch.pid, signal.SIGTERM)
                batch.end()
    note = f"{len(found)} kills, the longest {max(found):.1f} s; a new process starts for it"
    yield Line(ITEM, "from a worker's death to its part's next request", median(found), "s", note=note)
