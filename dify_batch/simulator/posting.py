"""POST /v1/workflows/run: what becomes of it, in both modes and under every fault."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from . import answers, wire
from .arrival import arriving, as_given, turned_away
from .channel import PING, Channel
from .exchange import Exchange, user_of
from .faults import Fault
from .gateway import page
from .inputs import InputError, check_inputs
from .runs import Ending, Run
from .site import OpenPost, Site
from .streams import send_post_stream
from .task import Task
from .trouble import odd_answer
from .wire import Answer

WRONG_MODE = "Please check if your app mode matches the right API route."
# Executed, but the client gets an error or nothing.
RUN_UNHEARD: dict[str, Answer | None] = {
    "cut_after_accept": None,
    "zombie_blocking": None,
    "error_500_run": wire.INTERNAL_500,
    "error_502_run": page(502),
    "bad_request_unknown": wire.refuse(400, "invalid_param", "queue listening stopped unexpectedly."),
}
# What these mean for a blocking POST, which has no stream to break.
BLOCKING_MEANING = {
    "cut_after_start": "cut_after_accept",
    "clean_end": "cut_after_accept",
    "zombie": "zombie_blocking",
    "error_event_after_start": "error_500_run",
}


async def run_workflow(exchange: Exchange) -> Answer | None:
    """POST /v1/workflows/run and /v1/workflows/{workflow_id}/run."""
    site, app = exchange.site, exchange.app
    body = exchange.json_body()
    user = user_of(body)
    if app.mode != "workflow":
        return wire.refuse(400, "not_workflow_app", WRONG_MODE)
    inputs, mode = answers.run_payload(body)
    with arriving(site, exchange.connection, inputs) as arrival:
        row, fault, open_post = arrival.row, arrival.fault, arrival.open_post
        answered, early = await turned_away(exchange.connection, fault, app, site.config)
        if answered:
            return early
        limit = site.config.max_active_requests
        held = site.api.active.get(app.key, 0)
        # A streaming POST needs two free slots and keeps none (dify-wire 17g, 17k).
        if limit is not None and held + (2 if mode == "streaming" else 1) > limit:
            return wire.too_many(app.id, limit)
        answers.check_workflow(app, exchange.request.params.get("workflow_id"))
        inputs = as_given(app, inputs, fault)
        owner = await site.users.find(app.key, user)
        resolver = site.files.resolver(owner, exchange.request.base_url)
        mute = "mute_refusals" in site.plan.server
        task = Task(app, user, row, mode, inputs, resolver, fault, owner=owner, mute=mute)
        if mode == "streaming":
            return await stream(exchange, task, open_post)
        return await block(exchange, task)


async def stream(exchange: Exchange, task: Task, open_post: OpenPost) -> Answer | None:
    """A run in the workers, whose events the client gets."""
    site, fault = exchange.site, task.fault
    if exchange.meets("redis_down"):
        await exchange.connection.start(200, wire.stream_head())
        await exchange.connection.write(PING.data)
        await exchange.connection.close()
        return None
    if fault.name in RUN_UNHEARD:
        task.channel = None
        site.engine.enqueue(task)
        return await unheard(exchange, fault)
    task.channel = task.channel or Channel()
    site.engine.enqueue(task)
    await send_post_stream(exchange.connection, site.config, task.channel, fault, open_post.answered)
    return None


async def unheard(exchange: Exchange, fault: Fault) -> Answer | None:
    """What the client gets of a run that it is not told of."""
    answer = RUN_UNHEARD[fault.name]
    if answer is None:
        await exchange.connection.close()
    return answer


async def block(exchange: Exchange, task: Task) -> Answer | None:
    """A run in the API process, whose end the client gets."""
    site, fault = exchange.site, task.fault
    if exchange.meets("redis_down"):
        return wire.INTERNAL_500
    name = BLOCKING_MEANING.get(fault.name, fault.name)
    if name != fault.name:
        fault = task.fault = Fault(name, fault.seconds, fault.latency)
    asked = asyncio.get_running_loop().time()
    if name == "slow_queue":
        await asyncio.sleep(fault.seconds or 0.0)
    try:
        inputs = check_inputs(task.app.form, task.inputs, task.files)
    except InputError as e:
        return wire.INTERNAL_500 if e.crash else wire.refuse(400, "invalid_param", e.message)
    run = site.engine.begin(task, inputs | task.system)
    execution = site.api.spawn(_hold_slot(site, task, run, site.api.hold_app_slot(task.app.key)))
    if name in RUN_UNHEARD:
        return await unheard(exchange, fault)
    if name in ("silence", "silence_before_start"):
        await exchange.connection.until_closed()
        return None
    ending = await asyncio.shield(execution)
    if ending is None:
        return None
    if name == "slow_answer" and fault.seconds is not None:
        await asyncio.sleep(max(0.0, asked + fault.seconds - asyncio.get_running_loop().time()))
    answer = (
        answers.blocking_answer(run, ending, strange=name == "unknown_event")
        if task.reply is None
        else task.reply(run, ending)
    )
    return await odd_answer(exchange.connection, name, answer)


async def _hold_slot(site: Site, task: Task, run: Run, release: Callable[[], None]) -> Ending | None:
    """A blocking run keeps its place in max_active_requests also when its client has gone (dify-wire 17i), and for
    minutes when the process was killed."""
    try:
        ending = await site.engine.execute(run, task.fault)
    except asyncio.CancelledError:
        asyncio.get_running_loop().call_later(site.config.app_slot_expiry, release)
        raise
    release()
    return ending
