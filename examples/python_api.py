"""dify-batch from Python.

    DIFY_API_KEY=app-... python python_api.py batch data.csv results.jsonl
    DIFY_API_KEY=app-... python python_api.py ask "What is Dify?"

`batch` is what the command line does, with its promises: the same call again goes on where the last one stopped.
`ask` is one run without files, for a form with a `query`; nobody looks after it if its answer is lost.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace

from dify_batch import (
    BatchReport,
    DifyBatchError,
    DifyClient,
    Failed,
    Lost,
    Outcome,
    Rejected,
    Running,
    Settings,
    Succeeded,
    run_batch,
)

BASE_URL = os.environ.get("DIFY_API_BASE_URL", "https://api.dify.ai/v1")
USER = "python-api-example"


async def batch(key: str, source: str, output: str) -> int:
    """Runs the rows of `source`; once more those that failed. Gives the command's exit status."""
    settings = Settings(input=source, output=output, api_key=key, base_url=BASE_URL)
    report: BatchReport = await run_batch(settings)
    if report.error is not None and report.error.code == "rows_failed":
        report = await run_batch(replace(settings, retry=True))
    summary = report.summary
    print(f"{summary.done_before + summary.success + summary.partial_success} of {summary.rows} rows have a result")
    for step in report.next_steps:
        print(step)
    return int(report.exit_status)


async def ask(key: str, question: str) -> int:
    """One run, and what it came to."""
    async with DifyClient(BASE_URL, key) as client:
        form = await client.parameters()
        print("inputs of the app:", [name for item in form["user_input_form"] for name in item], file=sys.stderr)
        outcome: Outcome = await client.run({"query": question}, user=USER, mode="streaming", timeout=300)
    match outcome:
        case Succeeded(result=result):
            print(json.dumps(result.outputs, ensure_ascii=False))
            return 0
        case Failed(result=result):
            print(f"the run failed: {result.error}", file=sys.stderr)
        case Rejected(message=message):
            print(f"no run was made: {message}", file=sys.stderr)
        case Running(ref=ref):
            print(f"still running on the server: {ref.run_id}", file=sys.stderr)
        case Lost(reason=reason):
            print(f"it may or may not run: {reason}", file=sys.stderr)
        case _:
            print(f"{outcome}", file=sys.stderr)
    return 1


async def main() -> int:
    match sys.argv[1:]:
        case ["batch", source, output]:
            work = batch(os.environ.get("DIFY_API_KEY", ""), source, output)
        case ["ask", question]:
            work = ask(os.environ.get("DIFY_API_KEY", ""), question)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    try:
        return await work
    except DifyBatchError as error:
        print(f"{error.message}\n{error.hint or ''}".rstrip(), file=sys.stderr)
        return int(error.exit_status)


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
