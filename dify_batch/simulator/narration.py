"""What a run tells those who listen: its nodes and text chunks, put on its open channels. Nothing is built if nobody
listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import events
from .apps import Chunk, Inputs, Node
from .channel import Event
from .means import Means
from .runs import Ending, Live, NodeRun, Run


def live_part(run: Run) -> Live:
    """What only an unfinished run has."""
    assert run.live is not None, f"run {run.id} has ended"
    return run.live


def put(run: Run, event: Event) -> None:
    """Sends an event to every open stream of the run."""
    if run.live is not None:
        for channel in run.live.channels:
            channel.put(event)


def publish(run: Run, name: str, build: Callable[..., dict[str, Any]], *args: Any) -> None:
    """Builds and sends an event, if there is a stream for it."""
    if run.live is not None and run.live.channels:
        put(run, events.live_event(run, name, build(*args)))


def send_chunks(run: Run, chunks: list[Chunk]) -> None:
    """Sends text_chunk events."""
    for text, node, variable in chunks:
        publish(run, "text_chunk", events.text_chunk, text, node, variable)


def start_node(means: Means, run: Run, node: Node) -> NodeRun:
    """A node begins."""
    node_run = NodeRun(means.new_id(), node, int(means.now()), means.monotonic())
    live_part(run).nodes.append(node_run)
    publish(run, "node_started", events.node_started, node_run)
    return node_run


def finish_node(
    means: Means,
    run: Run,
    node_run: NodeRun,
    inputs: Inputs,
    outputs: Inputs,
    *,
    status: str = "succeeded",
    error: str | None = None,
    process_data: Inputs | None = None,
    metadata: Inputs | None = None,
) -> None:
    """A node ends. status `exception`: it failed and the workflow went on with its default (dify-wire 15e)."""
    node_run.status = status
    node_run.finished, node_run.elapsed = int(means.now()), means.since(node_run.began)
    if not live_part(run).channels:
        return
    exception = status == "exception"
    data = events.node_finished(
        node_run,
        inputs,
        outputs,
        error="Unknown error" if exception else error,
        metadata={"error_strategy": "default-value"} if exception else metadata,
        process_data=process_data,
    )
    put(run, events.live_event(run, "node_finished", data))


def announce(run: Run, live: Live, ending: Ending) -> Ending:
    """Sends workflow_finished; `live` is given because the run may have been stored before."""
    if live.channels:
        data = events.workflow_finished(
            run,
            ending.status,
            ending.outputs,
            ending.error,
            ending.elapsed,
            ending.tokens,
            ending.steps,
            ending.created_at,
            ending.finished_at or ending.created_at,
            ending.exceptions,
        )
        event = events.live_event(run, "workflow_finished", data)
        for channel in live.channels:
            channel.put(event)
    return ending
