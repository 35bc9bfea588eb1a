"""The worker and its queue: when a run begins, what it does, how it ends.

A streaming run exists, in log and run detail, only once a worker takes it. A blocking one runs in the API process
and publishes no events. Both go on to their end whether or not anyone listens.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from . import events
from .apps import END, HUMAN, START, App, Inputs, Node
from .config import Config
from .faults import NORMAL, Fault
from .inputs import FileResolver, InputError, check_inputs
from .narration import Ending, announce, elapsed_since, finish_node, live_part, publish, put, send_chunks, start_node
from .runs import PING, Channel, Form, Live, Registry, Run
from .wire import new_id

Job = Callable[[], Coroutine[Any, Any, None]]

STOP_ERROR = "Aborted: User requested stop"  # in run detail (dify-wire 16d)
STOPPED_BY_USER = "Stopped by user."  # on the wire (dify-wire 16)
FAILED_ERROR = "Reached maximum retries for URL http://127.0.0.1:5080/status?c=500"  # dify-wire 15


@dataclass(slots=True)
class Task:
    """One accepted POST. channel: its stream, None if no one will listen."""

    app: App
    user: str
    row: str
    mode: str
    inputs: dict[str, Any]
    files: FileResolver
    fault: Fault = NORMAL
    channel: Channel | None = None


class Engine:
    """Executes runs. To be used in the server's event loop only."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.registry = Registry()
        self.executions: dict[str, int] = {}
        self.running = 0
        self.max_running = 0
        self._queue: deque[Job] = deque()
        self._busy = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def queued(self) -> int:
        """Streaming tasks that no worker has taken yet."""
        return len(self._queue)

    def close(self) -> None:
        """Forgets what is queued; the event loop's owner cancels what runs."""
        self._queue.clear()

    def enqueue(self, task: Task) -> None:
        """Hands a streaming task to the worker pool."""

        def job() -> Coroutine[Any, Any, None]:
            return self._work(task)

        if task.fault.name == "slow_queue" and task.fault.seconds:
            asyncio.get_running_loop().call_later(task.fault.seconds, self._push, job)
        else:
            self._push(job)

    def _push(self, job: Job) -> None:
        self._queue.append(job)
        self.pump()

    def pump(self) -> None:
        """Lets free workers take tasks, in order. To be called when `workers` has grown."""
        while self._queue and (self.config.workers is None or self._busy < self.config.workers):
            self._busy += 1
            self.spawn(self._occupy(self._queue.popleft()))

    async def _occupy(self, job: Job) -> None:
        try:
            await job()
        finally:
            self._busy -= 1
            self.pump()

    def spawn(self, job: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A background task that the engine keeps alive."""
        task = asyncio.ensure_future(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _work(self, task: Task) -> None:
        try:
            inputs = check_inputs(task.app.form, task.inputs, task.files)
        except InputError as e:
            if task.channel is not None:
                task.channel.put(events.error_event(e.message))
            return
        run = self.begin(task, inputs)
        await self.execute(run, task.fault)

    def begin(self, task: Task, inputs: Inputs) -> Run:
        """The run comes into being: from here on it is in the log."""
        live = Live(inputs, [] if task.channel is None else [task.channel])
        run = Run(
            new_id(),
            new_id(),
            task.app,
            task.user,
            task.row,
            task.mode,
            json.dumps(inputs),
            time.time(),
            live=live,
        )
        self.registry.add(run)
        self.executions[task.row] = self.executions.get(task.row, 0) + 1
        return run

    async def execute(self, run: Run, fault: Fault) -> Ending | None:
        """Runs it to its end, to its pause, or (zombies) nowhere: None then."""
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            return await self._execute(run, fault)
        finally:
            self.running -= 1

    async def _execute(self, run: Run, fault: Fault) -> Ending | None:
        live = live_part(run)
        began = time.monotonic()
        now = int(run.created_at)
        app, inputs = run.app, live.inputs
        publish(run, "workflow_started", events.workflow_started, run, inputs, now, "initial")
        send_chunks(run, app.early(inputs))
        start = start_node(run, START)
        finish_node(run, start, inputs, inputs)
        if fault.name in ("zombie", "zombie_blocking"):
            return None
        if app.human or fault.name == "paused":
            return self._pause(run, began)
        return await self._finish(run, fault, began, now, self._latency(run, fault))

    async def _finish(self, run: Run, fault: Fault, began: float, now: int, latency: float) -> Ending:
        live = live_part(run)
        app, inputs = run.app, live.inputs
        worker = start_node(run, app.work) if app.work is not None else None
        if await self._stopped(run, latency):
            return await self._stop(run, began, now)
        if fault.name == "stopped":
            ending = self._ending(run, began, now, "stopped", {}, STOPPED_BY_USER)
            self._store(run, ending, error=STOP_ERROR)
            return announce(run, live, ending)
        if fault.name == "stopped_but_succeeds":
            return self._stop_but_succeed(run, fault, began, now)
        if fault.name == "failed":
            if worker is not None:
                finish_node(run, worker, {}, {}, status="failed", error=FAILED_ERROR)
            ending = self._ending(run, began, now, "failed", {}, FAILED_ERROR, exceptions=1)
            self._store(run, ending)
            return announce(run, live, ending)
        form = live.form
        outputs = _outputs(app, inputs, form)
        partial, big = fault.name == "partial", fault.name == "big_event"
        if big:
            outputs = dict.fromkeys(outputs, "x" * events.MEGABYTE) or {"text": "x" * events.MEGABYTE}
            finish_node(run, start_node(run, Node("big", "code", "Big")), outputs, outputs, process_data=outputs)
        if worker is not None:
            send_chunks(run, app.late(inputs))
            finish_node(
                run,
                worker,
                {},
                {"text": "".join(c[0] for c in app.late(inputs))},
                status="exception" if partial else "succeeded",
            )
        end = start_node(run, END)
        finish_node(run, end, outputs, outputs)
        status = "partial-succeeded" if partial else "succeeded"
        ending = self._ending(run, began, now, status, outputs, None, app.tokens(inputs), int(partial))
        if fault.name == "db_down_at_end":
            return announce(run, live, ending)
        self._store(run, ending)
        return announce(run, live, ending)

    def _latency(self, run: Run, fault: Fault) -> float:
        if fault.latency is not None:
            return fault.latency
        if fault.name == "slow_answer" and run.mode == "streaming" and fault.seconds is not None:
            return fault.seconds
        base, tail = self.config.latency, self.config.latency_tail
        if tail is None:
            return base
        nth = self.executions.get(run.row, 1)
        if callable(tail):
            return base + tail(run.row, nth)
        rng = random.Random(f"{run.row}:{nth}")  # noqa: S311  # the same tail in every invocation
        return base * math.exp(rng.gauss(0.0, tail))

    async def _stopped(self, run: Run, seconds: float) -> bool:
        """Waits as the slow node does, pinging; True as soon as a stop is asked for."""
        live = live_part(run)
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not live.stop and (left := end - loop.time()) > 0:
            wake = live.wake = loop.create_future()
            timer = loop.call_later(min(left, self.config.ping_interval), _wake, wake)
            try:
                await wake
            finally:
                timer.cancel()
                live.wake = None
            if left > self.config.ping_interval and not live.stop:
                put(run, PING)
        return live.stop

    def stop(self, task_id: str) -> None:
        """Stops the live run of that task id, whoever asks (dify-wire 16k); knows no other."""
        run = self.registry.by_task.get(task_id)
        if run is None or run.live is None:
            return
        run.live.stop = True
        if run.live.wake is not None:
            _wake(run.live.wake)

    async def _stop(self, run: Run, began: float, now: int) -> Ending:
        live = live_part(run)
        ending = self._ending(run, began, now, "stopped", {}, STOPPED_BY_USER)
        announce(run, live, ending)
        await asyncio.sleep(self.config.stop_delay)
        self._store(run, self._ending(run, began, now, "stopped", {}, STOP_ERROR))
        return ending

    def _stop_but_succeed(self, run: Run, fault: Fault, began: float, now: int) -> Ending:
        live = live_part(run)
        wire = self._ending(run, began, now, "stopped", {}, STOPPED_BY_USER)
        announce(run, live, wire)

        async def go_on() -> None:
            await asyncio.sleep(self.config.late_end if fault.seconds is None else fault.seconds)
            start_node(run, END)
            outputs = run.app.answer(live.inputs)
            tokens = run.app.tokens(live.inputs)
            self._store(run, self._ending(run, began, now, "succeeded", outputs, None, tokens))

        self.spawn(go_on())
        return wire

    def _pause(self, run: Run, began: float) -> Ending:
        live = live_part(run)
        human = start_node(run, HUMAN)
        human.finished, human.status, human.elapsed = int(time.time()), "paused", 0.020651
        query = str(live.inputs.get("query", ""))
        tail = "\n\n{{#$output.comment#}}"
        form = live.form = Form(
            new_id(),
            secrets.token_urlsafe(16),
            int(time.time() + self.config.form_lifetime),
            f"Please review: {query}{tail}",
            "Please review: {{#start.query#}}" + tail,
        )
        self.registry.by_form[form.token] = run
        run.status, run.steps = "paused", len(live.nodes)
        elapsed = elapsed_since(began)
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
            self._push(lambda: self._resume(run, form))

    async def _resume(self, run: Run, form: Form) -> None:
        live = live_part(run)
        began, now = time.monotonic(), int(time.time())
        publish(run, "workflow_started", events.workflow_started, run, live.inputs, now, "resumption")
        human = start_node(run, HUMAN)
        publish(run, "human_input_form_filled", events.form_filled, form)
        if run.app.human:
            chunks = [("fine" if v is None else str(v), HUMAN.id, k) for k, v in form.answers.items()]
            send_chunks(run, [*chunks, ("\n", "end", "answer"), (str(live.inputs["query"]), "start", "query")])
        extra = {"__action_id": form.action, "__rendered_content": events.rendered(form)}
        title = events.form_filled(form)["action_text"]
        typed = {name: {"value_type": "string", "value": value} for name, value in form.answers.items()}
        finish_node(run, human, typed, {**form.answers, **extra, "__action_value": title})
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            await self._finish(run, NORMAL, began, now, self._latency(run, NORMAL))
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
        elapsed = elapsed_since(began)
        return Ending(status, outputs, error, elapsed, tokens, steps, created_at, int(time.time()), exceptions)

    def _store(self, run: Run, ending: Ending, error: str | None = None) -> None:
        """Writes the end to run detail and log, and lets go of all that only a live run needs."""
        run.status, run.outputs = ending.status, json.dumps(ending.outputs)
        run.error = ending.error if error is None else error
        run.elapsed, run.tokens, run.steps = ending.elapsed, ending.tokens, ending.steps
        run.exceptions, run.finished_at = ending.exceptions, time.time()
        run.live = None
        self.registry.by_task.pop(run.task_id, None)


def _outputs(app: App, inputs: Inputs, form: Form | None) -> Inputs:
    if app.human and form is not None:
        return {"comment": form.answers.get("comment"), "query": inputs.get("query")}
    return app.answer(inputs)


def _wake(wake: asyncio.Future[None]) -> None:
    if not wake.done():
        wake.set_result(None)
