"""How a run begins, what it does, how it ends.

A streaming run exists, in log and run detail, only once a worker takes it. A blocking one runs in the API process
and publishes no events. Both go on to their end whether or not anyone listens, unless what executes them is killed.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from . import events
from .apps import END, HUMAN, START, Inputs, Node
from .broker import Broker
from .config import Config
from .faults import NORMAL, Fault
from .inputs import InputError, check_inputs
from .kinds import node_price
from .ledger import Execution, Ledger
from .means import Means
from .narration import announce, finish_node, live_part, publish, send_chunks, start_node
from .oddities import TELLING, odd_outputs
from .processor import Processor
from .runs import STOP_ERROR, Ending, Form, Live, Registry, Run
from .task import Task
from .work import latency_of, outputs_of, stop, wait_unless_stopped

STOPPED_BY_USER = "Stopped by user."  # on the wire (dify-wire 16)
FAILURES = {
    "failed": "Reached maximum retries for URL http://127.0.0.1:5080/status?c=500",  # dify-wire 15
    "rate_limited": "[openai] Rate Limit Error, 429 Too Many Requests: please try again in 20s.",
}


class Engine:
    """Executes runs. To be used in the server's event loop only."""

    def __init__(self, config: Config, means: Means, broker: Broker, registry: Registry, ledger: Ledger) -> None:
        self.config = config
        self.registry = registry
        self.running: int = 0
        self.max_running: int = 0
        self._means = means
        self._broker = broker
        self._ledger = ledger
        self._api_processor = Processor()
        self._worker_processor = Processor()
        self._late: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Ends what goes on after its end was told."""
        for task in list(self._late):
            task.cancel()

    def enqueue(self, task: Task) -> None:
        """Hands a streaming task to the workers."""
        late = task.fault.seconds if task.fault.name == "slow_queue" else None
        self._broker.push(lambda: self._work(task), late or 0.0)

    async def _work(self, task: Task) -> None:
        if task.refused:
            return
        try:
            inputs = check_inputs(task.app.form, task.inputs, task.files)
        except InputError as e:
            if task.channel is not None and not task.mute:
                task.channel.put(events.error_event(e.message))
            return
        run = self.begin(task, inputs | task.system)
        await self.execute(run, task.fault)

    def begin(self, task: Task, inputs: Inputs) -> Run:
        """The run comes into being: from here on it is in the log."""
        means = self._means
        run_id, posted = means.new_id(), json.dumps(task.inputs)
        execution = Execution(task.row, run_id, task.user, task.mode, posted, means.monotonic())
        live = Live(inputs, execution, [] if task.channel is None else [task.channel])
        run = Run(
            run_id,
            means.new_id(),
            task.app,
            task.user,
            task.row,
            task.mode,
            json.dumps(inputs),
            means.now(),
            live=live,
            account=task.account,
            owner=task.owner,
        )
        if task.fault.name in TELLING:
            run.oddity, run.lag = task.fault.name, task.fault.seconds or 0.0
        live.on_end = task.on_end
        self.registry.add(run)
        self._ledger.begin(execution)
        if task.on_begin is not None:
            task.on_begin(run)
        return run

    async def execute(self, run: Run, fault: Fault) -> Ending | None:
        """Runs it to its end, to its pause, or (zombies) nowhere: None then."""
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        execution = live_part(run).execution
        try:
            await self._spend(run)
            ending = await self._execute(run, fault)
            execution.killed = ending is None
            return ending
        except asyncio.CancelledError:
            execution.killed = execution.ended is None
            raise
        finally:
            self.running -= 1

    async def _spend(self, run: Run) -> None:
        config = self.config
        if run.mode == "blocking":
            await self._api_processor.spend(config.blocking_cpu, config.api_processes)
        else:
            await self._worker_processor.spend(config.streaming_cpu, config.worker_processes)

    async def _execute(self, run: Run, fault: Fault) -> Ending | None:
        live = live_part(run)
        began = self._means.monotonic()
        now = int(run.created_at)
        app, inputs = run.app, live.inputs
        publish(run, "workflow_started", events.workflow_started, run, inputs, now, "initial")
        if not app.chunks_inside:
            send_chunks(run, app.early(inputs))
        start = start_node(self._means, run, START)
        if app.chunks_inside:
            send_chunks(run, app.early(inputs))
        plain = {name: value for name, value in inputs.items() if not name.startswith("sys.")}
        finish_node(self._means, run, start, plain, plain)
        if fault.name in ("zombie", "zombie_blocking"):
            return None
        if app.human or fault.name == "paused":
            return self._pause(run, began)
        return await self._finish(run, fault, began, now, self._latency(run, fault))

    async def _finish(self, run: Run, fault: Fault, began: float, now: int, latency: float) -> Ending:
        live = live_part(run)
        app, inputs = run.app, live.inputs
        worker = start_node(self._means, run, app.work) if app.work is not None else None
        if await wait_unless_stopped(self.config, run, latency):
            return await self._stop(run, began, now)
        if fault.name == "stopped":
            ending = self._ending(run, began, now, "stopped", {}, STOPPED_BY_USER)
            self._store(run, ending, error=STOP_ERROR)
            return announce(run, live, ending)
        if fault.name == "stopped_but_succeeds":
            return self._stop_but_succeed(run, fault, began, now)
        if fault.name in FAILURES:
            error = FAILURES[fault.name]
            if worker is not None:
                finish_node(self._means, run, worker, {}, {}, status="failed", error=error)
            ending = self._ending(run, began, now, "failed", {}, error, exceptions=1)
            self._store(run, ending)
            return announce(run, live, ending)
        form = live.form
        outputs = odd_outputs(run.oddity, outputs_of(app, inputs, form))
        partial, big = fault.name == "partial", fault.name == "big_event"
        if big:
            outputs = dict.fromkeys(outputs, "x" * events.MEGABYTE) or {"text": "x" * events.MEGABYTE}
            node = start_node(self._means, run, Node("big", "code", "Big"))
            finish_node(self._means, run, node, outputs, outputs, process_data=outputs)
        if worker is not None:
            send_chunks(run, app.late(inputs))
            finish_node(
                self._means,
                run,
                worker,
                {},
                {"text": "".join(c[0] for c in app.late(inputs))},
                status="exception" if partial else "succeeded",
                metadata=node_price(app.tokens(inputs)) if worker.node.type == "llm" and not partial else None,
            )
        end = start_node(self._means, run, app.end)
        finish_node(self._means, run, end, {} if app.mode == "advanced-chat" else outputs, outputs)
        status = "partial-succeeded" if partial else "succeeded"
        ending = self._ending(run, began, now, status, outputs, None, app.tokens(inputs), int(partial))
        if fault.name == "db_down_at_end":
            live.execution.end(self._means.monotonic(), ending.status, json.dumps(ending.outputs))
            return announce(run, live, ending)
        self._store(run, ending)
        return announce(run, live, ending)

    def _latency(self, run: Run, fault: Fault) -> float:
        return latency_of(self.config, run, self._ledger.counts.get(run.row, 1), fault)

    def stop(self, task_id: str, user: str = "") -> None:
        """Stops the live run of that task id, whoever asks (dify-wire 16k); knows no other."""
        run = self.registry.by_task.get(task_id)
        if run is not None:
            stop(run, user)

    async def _stop(self, run: Run, began: float, now: int) -> Ending:
        live = live_part(run)
        if run.app.mode == "advanced-chat" and live.stopped_by != run.user:  # dify-wire 31u2
            ending = self._ending(run, began, now, "failed", {}, STOP_ERROR)
            announce(run, live, ending)
            self._store(run, ending._replace(status="stopped"), error=STOP_ERROR)
            return ending
        ending = self._ending(run, began, now, "stopped", {}, STOPPED_BY_USER)
        announce(run, live, ending)
        if run.app.mode == "advanced-chat":  # run detail says running for ever (dify-wire 31u1)
            live.execution.end(self._means.monotonic(), ending.status, "{}")
            self._told(run, ending)
            return ending
        await asyncio.sleep(self.config.stop_delay)
        self._store(run, self._ending(run, began, now, "stopped", {}, STOP_ERROR))
        return ending

    def _stop_but_succeed(self, run: Run, fault: Fault, began: float, now: int) -> Ending:
        """The wire says stopped; what executes the run goes on with it (dify-wire 30d)."""
        live = live_part(run)
        wire = self._ending(run, began, now, "stopped", {}, STOPPED_BY_USER)
        announce(run, live, wire)
        if run.app.mode == "advanced-chat":
            self._told(run, wire)

        async def go_on() -> None:
            await asyncio.sleep(self.config.late_end if fault.seconds is None else fault.seconds)
            start_node(self._means, run, END)
            outputs = run.app.answer(live.inputs)
            tokens = run.app.tokens(live.inputs)
            self._store(run, self._ending(run, began, now, "succeeded", outputs, None, tokens))

        task = asyncio.ensure_future(go_on())
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return wire

    def _pause(self, run: Run, began: float) -> Ending:
        live = live_part(run)
        human = start_node(self._means, run, HUMAN)
        human.finished, human.status, human.elapsed = int(self._means.now()), "paused", 0.020651
        query = str(live.inputs.get("query", ""))
        tail = "\n\n{{#$output.comment#}}"
        form = live.form = Form(
            self._means.new_id(),
            _form_token(self._means),
            int(self._means.now() + self.config.form_lifetime),
            f"Please review: {query}{tail}",
            "Please review: {{#start.query#}}" + tail,
        )
        self.registry.by_form[form.token] = run
        run.status, run.steps = "paused", len(live.nodes)
        elapsed = self._means.since(began)
        self._told(run, Ending("paused", {}, None, elapsed, 0, run.steps, int(run.created_at), None))
        publish(run, "human_input_required", events.human_input_required, form, form.content)
        publish(run, "workflow_paused", events.workflow_paused, run, form, form.content, elapsed)
        return Ending("paused", {}, None, elapsed, 0, run.steps, int(run.created_at), None)

    def submit(self, run: Run, action: str, answers: dict[str, Any]) -> None:
        """Fills in the form of a paused run: it goes on, in the worker (dify-wire 18k, 18w)."""
        live = live_part(run)
        assert live.form is not None
        form = live.form
        form.submitted, form.action, form.answers = True, action, answers
        run.status, run.steps = "running", 0
        if not live.stop:  # one stopped while paused is left running for ever (dify-wire 18u)
            self._broker.push(lambda: self._resume(run, form))

    async def _resume(self, run: Run, form: Form) -> None:
        live = live_part(run)
        began, now = self._means.monotonic(), int(self._means.now())
        publish(run, "workflow_started", events.workflow_started, run, live.inputs, now, "resumption")
        human = start_node(self._means, run, HUMAN)
        publish(run, "human_input_form_filled", events.form_filled, form)
        if run.app.human:
            chunks = [("fine" if v is None else str(v), HUMAN.id, k) for k, v in form.answers.items()]
            send_chunks(run, [*chunks, ("\n", "end", "answer"), (str(live.inputs.get("query", "")), "start", "query")])
        extra = {"__action_id": form.action, "__rendered_content": events.rendered(form)}
        title = events.form_filled(form)["action_text"]
        typed = {name: {"value_type": "string", "value": value} for name, value in form.answers.items()}
        finish_node(self._means, run, human, typed, {**form.answers, **extra, "__action_value": title})
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            await self._finish(run, NORMAL, began, now, self._latency(run, NORMAL))
        except asyncio.CancelledError:
            live.execution.killed = live.execution.ended is None
            raise
        finally:
            self.running -= 1

    def _ending(
        self,
        run: Run,
        began: float,
        created_at: int,
        status: str,
        outputs: Inputs,
        error: str | None,
        tokens: int = 0,
        exceptions: int = 0,
    ) -> Ending:
        steps = len(run.live.nodes) if run.live is not None else run.steps
        elapsed = self._means.since(began)
        return Ending(status, outputs, error, elapsed, tokens, steps, created_at, int(self._means.now()), exceptions)

    def _told(self, run: Run, ending: Ending) -> None:
        if run.live is not None and run.live.on_end is not None:
            run.live.on_end(run, ending)

    def _store(self, run: Run, ending: Ending, error: str | None = None) -> None:
        """Writes the end to run detail and log, and lets go of all that only a live run needs."""
        run.status, run.outputs = ending.status, json.dumps(ending.outputs)
        run.error = ending.error if error is None else error
        run.elapsed, run.tokens, run.steps = ending.elapsed, ending.tokens, ending.steps
        run.exceptions, run.finished_at = ending.exceptions, self._means.now()
        self._told(run, ending)
        if run.live is not None:
            run.live.execution.end(self._means.monotonic(), run.status, run.outputs)
        run.live = None
        self.registry.by_task.pop(run.task_id, None)


def _form_token(means: Means) -> str:
    """22 letters and digits, as Dify's (dify-wire 18)."""
    return base64.b64encode(bytes.fromhex(means.chance.token(16)), b"aZ").decode().rstrip("=")
