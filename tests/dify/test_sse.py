from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dify_batch.dify import sse
from dify_batch.dify.sse import NEEDED, EventStream
from tests.support.wire_files import recorded

PING = b"event: ping\n\n"
STARTED = b'data: {"event":"workflow_started","workflow_run_id":"r","task_id":"t","data":{"id":"r"}}\n\n'
FINISHED = b'data: {"event":"workflow_finished","workflow_run_id":"r","task_id":"t","data":{"status":"succeeded"}}\n\n'


def all_of(*chunks: bytes) -> list[dict[str, Any]]:
    stream = EventStream()
    return [event for chunk in chunks for event in stream.feed(chunk)] + stream.finish()


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("02-streaming-success", ["workflow_started", "workflow_finished"]),
        ("05h2-streaming-error-until-server-closes", ["error"]),
        ("18-human-input-streaming", ["workflow_started", "human_input_required", "workflow_paused"]),
        ("24l-events-after-finish", ["workflow_finished"]),
        # Joined late: the first event bears the run's id, whatever it is.
        ("24b-events-while-running", ["text_chunk", "workflow_finished"]),
    ],
)
def test_recorded_streams(name: str, expected: list[str]) -> None:
    assert names(all_of(recorded(name).body)) == expected


def test_pings_are_counted_and_give_no_event() -> None:
    stream = EventStream()
    assert stream.feed(b"event: ping\n\nevent: ping\r\n\r\n" + STARTED) != []
    assert (stream.pings, stream.malformed) == (2, 0)


@pytest.mark.parametrize(
    "text",
    [
        b'data:{"event":"error","message":"x"}\n\n',
        b'data: {"event":"error","message":"x"}\r\n\r\n',
        b'id: 7\nevent: message\nretry: 10\ndata: {"event":"error","message":"x"}\n\n',
        b': a comment\ndata: {"event":"error",\ndata: "message":"x"}\n\n',
        b'\n\n\ndata: { "event" : "error", "message": "x"}\n\n',
        b'\xef\xbb\xbfdata: {"message":"x","event":"error"}\n\n',
        b'data: {"event":"error","message":"x"}\n\r\n',
        b'data: {"event":"error","message":"x"}\r\r',
        b': a comment\rdata: {"event":"error",\rdata: "message":"x"}\r\n\r',
        b'data: {"event":"error","message":"x"}',  # broken off where only the empty line was missing
    ],
)
@pytest.mark.parametrize("known", [b"", STARTED])
def test_forms_of_an_event(text: bytes, known: bytes) -> None:
    assert all_of(known, text)[-1] == {"event": "error", "message": "x"}


def test_what_nobody_needs_is_passed_over_without_a_look_at_its_json() -> None:
    stream = EventStream()
    stream.feed(STARTED)
    assert stream.feed(b'data: {"event":"text_chunk", this is no JSON\n\n') == []
    assert stream.malformed == 0


def test_events_that_bear_a_price_or_tell_which_node_failed_are_parsed() -> None:
    price = b'data: {"event":"node_finished","data":{"execution_metadata":{"total_price":"0.1"}}}\n\n'
    failed = b'data: {"event":"node_finished","data":{"status":"failed"}}\n\n'
    round_ = b'data: {"event":"iteration_completed","data":{"execution_metadata":{"total_price":"0.1"}}}\n\n'
    other = b'data: {"event":"node_finished","data":{"status":"succeeded"}}\n\n'
    text = b'data: {"event":"text_chunk","data":{"text":"total_price"}}\n\n'
    assert names(all_of(STARTED, other, price, failed, text, round_))[1:] == [
        "node_finished",
        "node_finished",
        "iteration_completed",
    ]


def test_an_event_whose_first_key_is_another_is_parsed_wholly() -> None:
    events = all_of(STARTED, b'data: {"task_id":"t","event":"workflow_paused","data":{}}\n\n')
    assert names(events) == ["workflow_started", "workflow_paused"]


@pytest.mark.parametrize(
    "data", [b"{", b"[1]", b"12", b'"x"', b'{"event":"error","message":"\xff"}', b"[" * 100_000, b"\x00"]
)
def test_malformed_events_are_counted_and_skipped(data: bytes) -> None:
    stream = EventStream()
    assert stream.feed(b"data: " + data + b"\n\n" + FINISHED) == [json.loads(FINISHED[6:])]
    assert stream.malformed == 1


def test_an_event_cut_in_its_json_is_no_event() -> None:
    stream = EventStream()
    assert stream.feed(STARTED + FINISHED[:-20]) == [json.loads(STARTED[6:])]
    assert stream.finish() == []
    assert stream.malformed == 0


def test_an_event_of_many_megabytes_in_small_chunks() -> None:
    text = "é€😀" * 700_000
    event = {"event": "workflow_finished", "data": {"outputs": {"text": text}}}
    block = b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"
    chunks = [block[i : i + 1021] for i in range(0, len(block), 1021)]  # cuts characters at every place
    assert all_of(*chunks) == [event]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_byte_by_byte(newline: bytes) -> None:
    whole = (PING + STARTED + FINISHED).replace(b"\n", newline)
    assert names(all_of(*[whole[i : i + 1] for i in range(len(whole))])) == ["workflow_started", "workflow_finished"]


def test_no_byte_is_searched_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = 0
    real = sse._END

    class Counting:
        def search(self, data: bytes, start: int) -> object:
            nonlocal searched
            searched += len(data) - start
            return real.search(data, start)

    monkeypatch.setattr(sse, "_END", Counting())
    size = 200_000
    block = b'data: {"event":"error","message":"' + b"x" * size + b'"}\n\n'
    assert len(all_of(*[block[i : i + 100] for i in range(0, len(block), 100)])) == 1
    assert searched < 1.2 * size  # a rescan from the start for each chunk would search 1000 times as much


def test_a_server_that_never_ends_an_event_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", 1 << 20)
    stream = EventStream()
    stream.feed(b"data: " + b"x" * 1_000_000)
    with pytest.raises(ValueError, match="an event of more than"):
        stream.feed(b"x" * 100_000)
    assert stream.finish() == []  # nothing of it is kept


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
event_names = st.sampled_from([*(name.decode() for name in NEEDED), "text_chunk", "node_finished"])
events = st.builds(lambda name, run, data: {"event": name, "workflow_run_id": run, "data": data},
                   event_names, st.sampled_from([None, "r"]), json_values)  # fmt: skip
blocks = st.one_of(
    st.just("event: ping"),
    st.just(": comment"),
    st.builds(lambda event, ascii: "data: " + json.dumps(event, ensure_ascii=ascii), events, st.booleans()),
    st.builds(lambda event: "id: 1\ndata: " + json.dumps(event, indent=1).replace("\n", "\ndata: "), events),
    st.just("data: {broken"),
)


@given(st.lists(blocks, max_size=8), st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.floats(0, 1), max_size=12))
def test_any_chunking_gives_the_same_events(texts: list[str], newline: str, cuts: list[float]) -> None:
    whole = "".join(text.replace("\n", newline) + newline * 2 for text in texts).encode()
    places = [0, *sorted(int(cut * len(whole)) for cut in cuts), len(whole)]
    once, parts = EventStream(), EventStream()
    expected = once.feed(whole)
    got = [event for a, b in pairwise(places) for event in parts.feed(whole[a:b])]
    assert got == expected
    assert (parts.pings, parts.malformed) == (once.pings, once.malformed)
    assert [e for e in got if e["event"].encode() in NEEDED] == [
        event for text in texts for event in [parsed(text)] if event is not None and event["event"].encode() in NEEDED
    ]


def parsed(text: str) -> dict[str, Any] | None:
    data = "\n".join(line[6:] for line in text.split("\n") if line.startswith("data: "))
    try:
        event: dict[str, Any] = json.loads(data)
    except ValueError:
        return None
    return event


@given(
    st.lists(
        st.binary(max_size=60) | st.sampled_from([b"\n\n", b"\r\n", b"\r", b"data: ", b"{}", b'{"event":"']),
        max_size=30,
    )
)
def test_arbitrary_bytes_never_fail(chunks: list[bytes]) -> None:
    once, parts = EventStream(), EventStream()
    expected = once.feed(b"".join(chunks)) + once.finish()
    assert [event for chunk in chunks for event in parts.feed(chunk)] + parts.finish() == expected
