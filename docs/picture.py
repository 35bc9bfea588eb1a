"""Draws docs/manual/batch.svg: a batch under way, as a terminal shows it.

    uv run python docs/picture.py

A real batch of 400 rows runs against the simulated Dify, three rows of it fail, and the frame at half of the rows is
kept. So the figures are of that run, and differ a little each time.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dify_batch import Settings, run_batch
from dify_batch.cli.progress import render
from dify_batch.cli.snapshot import Asked, Figures, Snapshot
from dify_batch.settings import Secret
from dify_batch.simulator import Config, SimulatorProcess
from dify_batch.summary import Stats

PICTURE = Path(__file__).parent / "manual" / "batch.svg"
ROWS, AT_ONCE, WIDTH = 400, 20, 84
FAILING = ("q-007", "q-031", "q-112")

# rich's own frame loads a font from elsewhere; this one takes what the reader's machine has.
FORMAT = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<title>a batch under way</title>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
 font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-family: system-ui, sans-serif; font-size: 18px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


async def frame() -> Snapshot:
    """Runs the batch, and gives its figures when half of the rows are done."""
    kept: list[Snapshot] = []
    with tempfile.TemporaryDirectory() as folder, SimulatorProcess(Config(latency=1.5, workers=None)) as server:
        server.faults({"rows": {row: ["failed"] for row in FAILING}})
        table = Path(folder, "questions.csv")
        lines = (f"q-{n:03},What is the capital of country {n}?" for n in range(1, ROWS + 1))
        table.write_text("\n".join(("id,query", *lines)), encoding="utf-8")  # noqa: ASYNC240 - nothing else runs yet
        settings = Settings(
            input=str(table),
            output=Path(folder, "results.jsonl"),
            api_key=Secret("app-demo"),
            base_url=server.base_url,
            concurrency=AT_ONCE,
        )
        stats = Stats()
        figures = Figures(stats.clock.monotonic, Asked(concurrency=AT_ONCE))
        batch = asyncio.create_task(run_batch(settings, stats=stats))
        while not batch.done():
            snap = figures.take(stats)
            if not kept and snap.to_run and snap.done >= ROWS // 2:
                kept.append(snap)
            await asyncio.sleep(0.25)
        await batch
    return kept[0]


def draw(snap: Snapshot) -> str:
    """The frame as SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(Text(f"$ dify-batch -i questions.csv -o results.jsonl -c {AT_ONCE}"))
    console.print(render(snap, WIDTH))
    return console.export_svg(title="dify-batch", code_format=FORMAT, unique_id="batch")


if __name__ == "__main__":
    PICTURE.write_text(draw(asyncio.run(frame())), encoding="utf-8")
    print(PICTURE)
