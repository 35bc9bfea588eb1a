"""Named faults: what can go wrong, for one request, one upload, or the whole server. Pure; `plan` says when."""

from __future__ import annotations

from dataclasses import dataclass

from .gateway import GATEWAY_FAULTS

# One POST of a row can meet one of these. README of the recorded exchanges: the numbers in brackets.
RUN_FAULTS = {
    "normal": "nothing goes wrong (to say so within a list)",
    "cut_before": "the request is read, the connection closed without a byte; no run (29)",
    "cut_after_accept": "the request is read, the connection closed without a byte; the run is executed (26d)",
    "cut_after_start": "the stream is closed right after workflow_started; the run goes on",
    "cut_mid_stream": "closed in the middle of an event, after some nodes; the run goes on (26e)",
    "silence": "after workflow_started nothing more is sent; the run ends normally (26i)",
    "silence_before_start": "one ping, then nothing; the run is executed",
    "error_500": "500 internal_server_error; no run (26o)",
    "error_500_run": "500 internal_server_error; the run goes on and succeeds (26j)",
    "error_502": "502 as HTML, from a proxy; no run",
    "error_502_run": "502 as HTML, from a proxy; the run goes on",
    "error_503": "503 as HTML, from a proxy; no run",
    "error_unknown": "500 unknown; no run (26n)",
    "throttle_429": "429 too_many_requests, with Retry-After if `seconds` is given; no run",
    "throttle_400": "400 invalid_param `Too many requests...`; no run (17)",
    "quota": "429 rate_limit_error; no run",
    "quota_provider": "400 provider_quota_exceeded; no run",
    "not_initialized": "400 provider_not_initialize; no run",
    "bad_key": "401 unauthorized; no run (03)",
    "forbidden": "403 forbidden, the app's API is disabled; no run (21j)",
    "rejected": "a bad input: 400 when blocking, an `error` event when streaming; no run (05, 05b)",
    "failed": "the run fails (15)",
    "partial": "the run is partial-succeeded, error null, exceptions_count 1 (15d)",
    "stopped": "the run is stopped, on the wire and in run detail (16)",
    "stopped_but_succeeds": "the wire says stopped with {}, run detail says succeeded later (30d, 30e)",
    "paused": "the run waits for a form (18)",
    "zombie": "workflow_started, then the worker dies: silence, `running` for ever (26b)",
    "zombie_blocking": "closed without a byte, `running` for ever (26d, 26h)",
    "slow_queue": "the run starts `seconds` late",
    "error_event_after_start": "an `error` event after workflow_started; the run succeeds",
    "bad_request_unknown": "400 invalid_param `queue listening stopped unexpectedly.`; the run is executed",
    "db_down_at_end": "the wire says succeeded with outputs, run detail stays `running` for ever (26l)",
    "clean_end": "the stream ends cleanly after workflow_started; the run goes on",
    "big_event": "a node_finished event of 3 MB and outputs of 1 MB",
    "unknown_event": "event types and fields that no client knows",
    "split_utf8": "chunks end inside multi-byte characters",
    "slow_answer": "the blocking answer comes `seconds` after the POST",
}
# One POST of a row can meet one of these, too. The run is made and goes well unless it says otherwise; what is told is
# odd. (Kept apart because the tests of the command take every fault above through every mode and policy.)
ODD_FAULTS = {
    "lost_started": "the event workflow_started never comes (langgenius/dify 40948)",
    "lost_finished": "the event workflow_finished never comes, the stream ends cleanly (31253)",
    "ids_disagree": "workflow_finished, and the answer's data, name another run than the rest",
    "doubled": "the blocking answer is sent twice on its connection",
    "unknown_status": "the run ends with a status word that no client knows",
    "rate_limited": "the run fails at once, with a model provider's `Rate Limit Error, 429`",
    "detail_500": "run detail and events of this run always answer 500",
    "detail_lags": "run detail and log say running until `seconds` after the end",
    "time_ms": "finished_at and expiration_time in milliseconds",
    "time_ns": "in nanoseconds",
    "time_negative": "negative",
    "time_text": "as text",
    "time_list": "as a list",
    "outputs_nan": "outputs hold NaN and Infinity, which are no JSON",
    "outputs_1e400": "outputs hold 1e400, which no double holds",
    "outputs_separators": "outputs hold U+0085, U+2028 and U+2029",
    "endless": "an answer, or an event, that never ends",
    "gzip_bomb": "the blocking answer is a megabyte of gzip that unpacks to a GiB of JSON",
    "sse_cr": "the stream's lines end with CR",
    "sse_crlf": "the stream's lines end with CR LF",
    "sse_no_media_type": "the stream has no Content-Type",
    "sse_other_case": "the stream's Content-Type is Text/Event-Stream",
}
# One POST to an app that talks can meet one of these, too.
TALK_FAULTS = {
    "cut_off": "the answer is cut off and looks whole, usage is 0 (32ab); blocking: it is empty",
    "empty_answer": "the model says nothing (32ag)",
    "model_broke": "400 invalid_param of the model's connection, after it was begun and paid (32ai)",
    "moderated": "the input is refused by moderation: an answer without usage (32t1)",
    "replaced": "the answer is replaced by moderation at its end (32t2)",
}
# An upload can meet one of these, or what a gateway says.
UPLOAD_FAULTS = {
    "normal": "nothing goes wrong",
    "upload_413": "413 file_too_large (20)",
    "upload_415": "415 unsupported_file_type (20g)",
    "upload_500": "500 unknown; nothing is stored",
    "upload_cut": "the request is read, the connection closed without a byte; nothing is stored",
    "upload_cut_after": "the file is stored, the connection closed without a byte",
}
# The whole server can suffer from these, until the plan is replaced.
SERVER_FAULTS = {
    "refuse": "the listening socket is closed",
    "proxied": "something in front answers 502 while the API is dead, rather than that connections are refused",
    "mute_refusals": "nothing follows the ping of a refused stream, for 300 s (the 1.14.2 release, 35a1)",
    "closed_log": "the log answers 403 forbidden",
    "slow_log": "the log answers after `seconds`",
    "log_ignores_user": "the log gives the runs of every user",
    "detail_lags": "run detail and log say running until `seconds` after a run's end",
    "outputs_as_text": "run detail gives outputs as JSON text (Dify to about 1.11)",
    "no_events": "the events endpoint answers 404 as JSON (older Dify)",
    "info_404": "GET /info answers 404 as JSON",
    "info_404_html": "GET /info answers 404 as HTML",
    "info_403": "GET /info answers 403 forbidden",
}
# And from these, or what a gateway says: for requests of some kind, from the nth on, some times, or for a while.
REQUEST_FAULTS = {
    "outage_500": "every /v1 request answers 500 unknown, as with Postgres down (26n); /health stays 200",
    "redis_down": "every request first waits `seconds`; GETs answer, a blocking POST 500, a stream ends (26o)",
    "hang": "requests are read and never answered",
    "slow": "requests are answered after `seconds`",
    "cut": "the request is read and not handled, the connection closed without a byte",
    "cut_answer": "the request is handled, the connection closed without a byte",
    "cut_in_answer": "the request is handled, the connection closed in the middle of the answer",
    "doubled": "the answer is sent twice on its connection",
    "endless": "an answer that never ends",
    "gzip_bomb": "a megabyte of gzip that unpacks to a GiB of JSON",
    "throttle_429": "429 too_many_requests, with Retry-After if `seconds` is given",
}

OF_A_RUN = RUN_FAULTS | ODD_FAULTS | TALK_FAULTS | GATEWAY_FAULTS
OF_AN_UPLOAD = UPLOAD_FAULTS | GATEWAY_FAULTS
OF_THE_SERVER = SERVER_FAULTS | REQUEST_FAULTS | GATEWAY_FAULTS


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. seconds: its duration, or its Retry-After, where it has one; latency: of the run, in place of
    Config.latency.

    Of the whole server, for REQUEST_FAULTS and a gateway's: on: the endpoints that meet it, each like "GET parameters",
    "GET" or "parameters" (none: all of them); after: so many such requests go well first; times: so many meet it;
    lasts: it is over so many seconds after the first that met it.
    """

    name: str
    seconds: float | None = None
    latency: float | None = None
    on: tuple[str, ...] = ()
    after: int = 0
    times: int | None = None
    lasts: float | None = None


NORMAL = Fault("normal")
