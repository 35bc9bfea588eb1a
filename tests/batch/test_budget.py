"""--max-tokens, --max-cost: a budget of the whole output, kept to one run in flight."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from dify_batch.reports.status import status_report
from dify_batch.simulator import Config, Simulator
from dify_batch.usage import exact
from tests.support.batchfolder import BatchFolder
from tests.support.harness import results


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_the_budget_is_not_passed_and_a_higher_one_goes_on(concurrency: int, tmp_path: Path) -> None:
    with Simulator(Config(latency=0.02, workers=None, linger_after_finish=0.1)) as server:
        folder = BatchFolder(tmp_path, server)
        folder.data.write_text("id,query\n" + "".join(f"r{n},question 0{n}\n" for n in range(10)), encoding="utf-8")
        first = await folder.run(limit=1, api_key="app-demo")
        each = first.summary.total_tokens
        assert each > 0, "the simulator's runs use tokens"
        report = await folder.run(max_tokens=5 * each, concurrency=concurrency, api_key="app-demo")
        assert report.error is not None
        assert (report.exit_status, report.error.code) == (75, "budget_reached")
        done = report.summary.done_before + report.summary.success
        assert (done, report.summary.untouched) == (5, 5)
        assert report.error.details["rows_left"] == 5
        rest = await folder.run(max_tokens=100 * each, concurrency=concurrency, api_key="app-demo")
        assert (rest.exit_status, rest.summary.success) == (0, 5)


async def test_a_budget_in_money_is_kept_and_what_it_cost_is_told(tmp_path: Path) -> None:
    with Simulator(Config(latency=0.02, workers=None, linger_after_finish=0.1)) as server:
        folder = BatchFolder(tmp_path, server)
        folder.data.write_text("id,query\n" + "".join(f"r{n},question 0{n}\n" for n in range(10)), encoding="utf-8")
        first = await folder.run(limit=1, api_key="app-demo")
        ((currency, text),) = first.summary.total_price.items()
        each = Decimal(text)
        assert each > 0
        report = await folder.run(max_cost=4 * each, api_key="app-demo")
        assert report.error is not None
        assert (report.exit_status, report.error.code) == (75, "budget_reached")
        assert (report.summary.success, report.summary.untouched) == (3, 6)
        assert report.summary.total_price == {currency: exact(3 * each)}
        assert status_report(folder.output).total_price == {currency: exact(4 * each)}
        assert {line["total_price"] for line in results(folder.output)} == {text}
        plan = (await folder.run(dry_run=True, api_key="app-demo")).plan
        assert plan is not None
        assert plan.price == {currency: exact(6 * each)}
        assert f"about {plan.tokens} tokens" in plan.text()
