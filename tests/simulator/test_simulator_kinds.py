"""What the apps that talk do when somebody leaves, kills or asks too early: what is stored, lost and paid."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dify_batch.simulator import Config, Means, Site, site_server
from dify_batch.simulator.faults import TALK_FAULTS
from dify_batch.simulator.kinds import DEMO_KEYS
from dify_batch.simulator.plan import parse_plan
from tests.support.fake_network import FakeTransport
from tests.support.owned_time import CountingChance, LoopClock, play

CF1, CH1, CP1, AG1 = "app-cf1", "app-ch1", "app-cp1", "app-ag1"
TEN = Config(latency=10.0)  # seconds that a model, or the slow node, takes


class World:
    """A server in its own time, and one request after the other."""

    def __init__(self, config: Config = TEN, **faults: Any) -> None:
        self.site = Site(config, Means(LoopClock(), CountingChance()))
        self.site.plan = parse_plan(faults)
        self.server = site_server(self.site)

    async def ask(self, key: str, method: str, path: str, body: object = None, until: str | None = None) -> bytes:
        return await FakeTransport(self.server()).request(method, path, body, key, until)

    async def say(
        self, key: str, mode: str, user: str = "u", until: str | None = None, query: str = "hello", **inputs: Any
    ) -> bytes:
        """One message; with `until` its client leaves at that text."""
        body = {"inputs": {"topic": "cats"} | inputs, "query": query, "response_mode": mode, "user": user}
        connection = FakeTransport(self.server())
        path = "/v1/completion-messages" if "cp1" in key or "completion" in key else "/v1/chat-messages"
        answer = await connection.request("POST", path, body, key, until)
        connection.close()
        return answer

    async def json(self, key: str, path: str) -> Any:
        answer = await self.ask(key, "GET", path)
        return json.loads(answer.partition(b"\r\n\r\n")[2])

    async def messages(self, key: str, user: str = "u") -> list[dict[str, Any]]:
        """All of a user's messages, by look-ups alone."""
        found = []
        for talk in (await self.json(key, f"/v1/conversations?user={user}"))["data"]:
            found += (await self.json(key, f"/v1/messages?user={user}&conversation_id={talk['id']}"))["data"]
        return found

    async def answers(self, key: str) -> list[tuple[str, str]]:
        return [(message["status"], message["answer"]) for message in await self.messages(key)]


@pytest.mark.parametrize(
    ("key", "mode", "until", "stored"),
    [
        (CH1, "blocking", "nothing", "Echo: hello"),  # a blocking answer is stored whoever is there (dify-wire 32g)
        (CH1, "streaming", '"answer":"Echo', ""),  # a stream's is lost with its client, and paid (32f)
        (AG1, "streaming", '"answer":"Echo', ""),  # (34f)
        (CF1, "streaming", "workflow_started", "Q=hello T=cats R=slept 0"),  # (31f)
        (CF1, "blocking", "nothing", "Q=hello T=cats R=slept 0"),  # (31h)
    ],
)
def test_a_client_that_leaves(key: str, mode: str, until: str, stored: str) -> None:
    async def story() -> tuple[list[tuple[str, str]], Any]:
        world = World()
        leaving = asyncio.ensure_future(world.say(key, mode, until=until if mode == "streaming" else None))
        await asyncio.sleep(7)
        leaving.cancel()
        before = await world.answers(key)
        await asyncio.sleep(60)
        assert before == [("normal", "")], "there while it is made, and empty"
        return await world.answers(key), world.site.ledger.executions

    answers, executions = play(story())
    assert answers == [("normal", stored)]
    assert [execution.status for execution in executions] == ["succeeded"]


def test_what_an_agent_thought_is_stored_as_it_thinks() -> None:
    async def story() -> list[dict[str, Any]]:
        world = World()
        await world.say(AG1, "streaming", query="x @tool=1 @n=4 @gap=0.5", until='"answer":"w1')
        await asyncio.sleep(60)
        return await world.messages(AG1)

    (message,) = play(story())
    assert message["answer"] == ""
    assert [(t["thought"], t["tool"]) for t in message["agent_thoughts"]] == [
        ("Let me look. ", "current_time"),
        ("w1 w2 w3 w4 ", ""),
    ]


@pytest.mark.parametrize(
    ("key", "mode", "what", "stored", "run"),
    [
        (CH1, "blocking", "api", "", None),  # dify-wire 32z2
        (AG1, "streaming", "api", "", None),
        (CF1, "blocking", "api", "", "running"),  # 31z2
        (CF1, "streaming", "api", "Q=hello T=cats R=slept 0", "succeeded"),  # 31z1
        (CF1, "streaming", "worker", "", "running"),  # 31y1
        (CH1, "blocking", "worker", "Echo: hello", None),  # 32y1
    ],
)
def test_api_and_worker_killed(key: str, mode: str, what: str, stored: str, run: str | None) -> None:
    async def story() -> tuple[Any, Any]:
        world = World()
        going = asyncio.ensure_future(world.say(key, mode, until="never"))
        await asyncio.sleep(5)
        world.site.crash(what)
        await asyncio.sleep(1)
        world.site.restart(what)
        await asyncio.sleep(60)
        going.cancel()
        return await world.answers(key), [found.status for found in world.site.registry.by_id.values()]

    answers, runs = play(story())
    assert answers == [("normal", stored)]
    assert runs == ([] if run is None else [run])


def test_a_chatflow_that_waits_in_the_queue_is_in_no_list() -> None:
    async def story() -> tuple[Any, Any]:
        world = World(Config(workers=0))
        await world.say(CF1, "streaming", until="ping")
        before = await world.answers(CF1)
        world.site.configure(Config(workers=1))
        await asyncio.sleep(10)
        return before, await world.answers(CF1)

    assert play(story()) == ([], [("normal", "Q=hello T=cats R=slept 0")])


def test_two_requests_that_meet_make_two_users_of_one_name() -> None:
    async def story(known_before: bool) -> list[tuple[str, str]]:
        world = World(Config(latency=0.1, user_creation=0.01))
        if known_before:
            await world.json(CH1, "/v1/conversations?user=u")
        post = asyncio.ensure_future(world.say(CH1, "blocking"))
        await asyncio.sleep(0.005)
        await world.json(CH1, "/v1/conversations?user=u")
        await post
        await asyncio.sleep(5)
        return await world.answers(CH1)

    assert play(story(known_before=False)) == [], "executed, and never found (dify-wire 31i)"
    assert play(story(known_before=True)) == [("normal", "Echo: hello")]


def test_streams_of_chats_hold_a_slot_and_give_it_back_when_the_client_leaves() -> None:
    async def story() -> list[bool]:
        world = World(Config(latency=10.0, max_active_requests=1))
        first = FakeTransport(world.server())
        body = {"inputs": {"topic": "x"}, "query": "q @n=9", "response_mode": "streaming", "user": "u"}
        await first.request("POST", "/v1/chat-messages", body, CH1, until="w1")
        refused = b"Too many requests" in await world.say(CH1, "blocking")
        first.close()
        await asyncio.sleep(0)
        return [refused, b"Too many requests" in await world.say(CH1, "blocking")]

    assert play(story()) == [True, False]


def test_past_its_time_an_answer_is_cut_off_and_looks_whole() -> None:
    async def story() -> tuple[bytes, bytes]:
        world = World(Config(app_time_limit=4.0))
        query = "q @n=16 @gap=0.5"
        return await world.say(CH1, "blocking", query=query), await world.say(CH1, "streaming", query=query)

    blocking, streamed = play(story())
    assert b'"answer": ""' in blocking
    assert b'"total_tokens": 0' in blocking
    assert streamed.count(b'"event":"message",') in (8, 9)
    assert b'"total_tokens":0' in streamed


@pytest.mark.parametrize(
    ("kind", "app_mode", "path"),
    [
        ("workflow", "workflow", "workflows/run"),
        ("chatflow", "advanced-chat", "chat-messages"),
        ("chat", "chat", "chat-messages"),
        ("agent", "agent-chat", "chat-messages"),
        ("completion", "completion", "completion-messages"),
    ],
)
def test_the_demo_has_an_app_of_every_kind(kind: str, app_mode: str, path: str) -> None:
    async def story() -> tuple[Any, bytes]:
        world, key = World(Config(latency=0.1)), DEMO_KEYS[kind]
        mode = "streaming" if kind == "agent" else "blocking"
        body = {"inputs": {"query": "Hi"}, "query": "Hi", "user": "u", "response_mode": mode}
        if kind == "completion":
            del body["query"]
        return await world.json(key, "/v1/info"), await world.ask(key, "POST", f"/v1/{path}", body)

    info, answer = play(story())
    assert info["mode"] == app_mode
    assert b"200 OK" in answer
    assert b"Echo: " in answer
    assert b"Hi" in answer
    assert len(DEMO_KEYS) == 5


TALK = [
    # fault, what a blocking POST gets, what is stored, how the server ended it
    ("cut_off", b'"total_tokens": 0', ("normal", ""), "stopped"),
    ("empty_answer", b'"answer": ""', ("normal", ""), "succeeded"),
    ("model_broke", b"Request to Plugin Daemon Service failed-500", ("error", ""), "failed"),
    ("moderated", b"input refused by moderation", ("normal", "input refused by moderation"), "succeeded"),
    ("replaced", b"output replaced by moderation", ("normal", "output replaced by moderation"), "succeeded"),
    ("failed", b"completion_request_error", ("error", ""), "failed"),
    ("rate_limited", b"Rate Limit Error, 429", ("error", ""), "failed"),
    ("error_500_run", b"internal_server_error", ("normal", "Echo: hello"), "succeeded"),
    ("cut_after_accept", b"", ("normal", "Echo: hello"), "succeeded"),
    ("zombie_blocking", b"", ("normal", ""), None),
    ("db_down_at_end", b"Echo: hello", ("normal", ""), "succeeded"),
]


@pytest.mark.parametrize(("fault", "told", "stored", "status"), TALK, ids=[row[0] for row in TALK])
def test_faults_of_a_chat(fault: str, told: bytes, stored: tuple[str, str], status: str | None) -> None:
    async def story() -> tuple[bytes, Any, Any]:
        world = World(Config(latency=1.0), all=fault)
        answer = await world.say(CH1, "blocking")
        await asyncio.sleep(60)
        return answer, await world.answers(CH1), world.site.ledger.executions[0].status

    answer, answers, ended = play(story())
    assert told in answer if told else answer == b""
    assert answers == [stored]
    assert ended == status


@pytest.mark.parametrize(
    ("fault", "shows", "ends"),
    [
        ("cut_after_start", b'"event":"message"', False),
        ("cut_mid_stream", b'"event":"message"', False),
        ("clean_end", b'"event":"message"', True),
        ("lost_finished", b'"answer":"hello"', True),
        ("replaced", b'"event":"message_replace"', True),
        ("failed", b'"event":"error"', True),
        ("sse_other_case", b"Text/Event-Stream", True),
    ],
)
def test_faults_of_a_chats_stream(fault: str, shows: bytes, ends: bool) -> None:
    async def story() -> bytes:
        return await World(Config(latency=1.0), all=fault).say(CH1, "streaming")

    answer = play(story())
    assert shows in answer
    assert answer.endswith(b"0\r\n\r\n") == ends


def test_refusals_make_nothing() -> None:
    async def story() -> tuple[bytes, list[Any], Any]:
        world = World(rows={"r": ["rejected"]})
        return await world.say(CH1, "blocking", id="r"), await world.messages(CH1), world.site.ledger.executions

    answer, messages, executions = play(story())
    assert b"topic is required in input form" in answer
    assert (messages, executions) == ([], [])


def test_naming_a_conversation_costs_a_model_call() -> None:
    async def story() -> list[int]:
        world = World(Config(latency=0))
        counts = []
        for more in ({}, {"auto_generate_name": False}, {"auto_generate_name": True}):
            body = {"inputs": {"topic": "x"}, "query": "q", "user": "u", **more}
            await world.ask(CH1, "POST", "/v1/chat-messages", body)
            counts.append(world.site.talks.named)
        return counts

    assert play(story()) == [1, 1, 2]


def test_a_chatflow_that_is_stopped() -> None:
    """By its own user: run detail says running for ever. By another: the run is stopped, the message an error."""

    async def story(by: str) -> tuple[Any, Any]:
        world = World()
        going = asyncio.ensure_future(world.say(CF1, "streaming"))
        await asyncio.sleep(2)
        (run,) = world.site.registry.by_id.values()
        await world.ask(CF1, "POST", f"/v1/chat-messages/{run.task_id}/stop", {"user": by})
        answer = await going
        (message,) = await world.messages(CF1)
        detail = await world.json(CF1, f"/v1/workflows/run/{run.id}")
        wire = json.loads(answer.rpartition(b"data: ")[2].partition(b"\n\n")[0])["data"]
        return (wire["status"], detail["status"]), (message["status"], message["answer"])

    assert play(story("u")) == (("stopped", "running"), ("normal", "Q=hello T=cats R="))
    assert play(story("somebody")) == (("failed", "stopped"), ("error", ""))


def test_a_chatflow_past_its_time_stores_a_part_and_its_run_the_whole() -> None:
    """dify-wire 31ab: who asks without the run id will never get the whole."""

    async def story(mode: str) -> tuple[bytes, Any, Any]:
        world = World(all="stopped_but_succeeds")
        answer = await world.say(CF1, mode)
        await asyncio.sleep(60)
        (run,) = world.site.registry.by_id.values()
        return answer, await world.answers(CF1), await world.json(CF1, f"/v1/workflows/run/{run.id}")

    for mode in ("blocking", "streaming"):
        answer, answers, detail = play(story(mode))
        assert (b'"answer": "Q=hello T=cats R="' if mode == "blocking" else b'"status":"stopped"') in answer
        assert answers == [("normal", "Q=hello T=cats R=")]
        assert (detail["status"], detail["outputs"]["answer"]) == ("succeeded", "Q=hello T=cats R=slept 0")


def test_completions_cannot_be_found() -> None:
    async def story() -> tuple[Any, bytes, bytes]:
        world = World(Config(latency=0))
        answer = await world.say(CP1, "blocking")
        message = json.loads(answer.partition(b"\r\n\r\n")[2])["message_id"]
        body = {"rating": None, "user": "u"}
        known = await world.ask(CP1, "POST", f"/v1/messages/{message}/feedbacks", body)
        unknown = await world.ask(CP1, "POST", f"/v1/messages/{world.site.means.new_id()}/feedbacks", body)
        return await world.json(CP1, "/v1/conversations?user=u"), known, unknown

    found, known, unknown = play(story())
    assert found["code"] == "not_chat_app"
    assert b"200 OK" in known
    assert b"404 Not Found" in unknown


def test_every_fault_of_a_talk_is_shown_here() -> None:
    assert set(TALK_FAULTS) <= {row[0] for row in TALK}
