"""The one place of the flags and settings: their names, defaults, values and words.

This table feeds argparse, the reading of the environment and of `.env`, `.env.example`, the README's table
and the shell completion. Importing it is cheap, because every `dify-batch --help` pays for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dify_batch.errors import UsageError
from dify_batch.flagvalues import (
    MAX_CONCURRENCY,
    parse_concurrency,
    parse_cost,
    parse_count,
    parse_delimiter,
    parse_duration,
    parse_duration_or_auto,
    parse_encoding,
    parse_failures,
    parse_metrics,
    parse_name,
    parse_pair,
    parse_positive,
    parse_rate,
    parse_rename,
    parse_seconds,
    parse_shard,
    parse_sheet,
    parse_timeout,
    parse_urls,
    parse_workers,
)

WHAT, FAST, WRONG, STOP = "What to run", "How fast", "What to do when something goes wrong", "When to stop"
FORMATS, LOOK, SEE, HELP = "Formats", "Look first", "What you see", "Settings and help"
GROUPS = (WHAT, FAST, WRONG, STOP, FORMATS, LOOK, SEE, HELP)
"""The groups of `--help` and of the README, in the order in which a person comes to need them."""

DEFAULT_BASE_URL = "https://api.dify.ai/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag, one setting, or both.

    `names` is empty for a setting without a flag, `env` None for a flag without a variable. `default` is the
    value, `shown` the same as text. `action` "value" takes a value, "list" one each time it is given; "on" and "off"
    set `dest`. `again`: it decides what happens to the rows, so commands that are printed as a next step repeat it.
    """

    dest: str
    group: str
    help: str
    doc: str = ""
    names: tuple[str, ...] = ()
    metavar: str | None = None
    env: str | None = None
    default: Any = None
    shown: str = ""
    parse: Callable[[str], Any] = str
    choices: tuple[str, ...] = ()
    action: Literal["value", "list", "on", "off", "count", "help", "version"] = "value"
    required: bool = False
    again: bool = True

    @property
    def name(self) -> str:
        """The long name, or the variable's where there is no flag."""
        return self.names[-1] if self.names else str(self.env)

    def read(self, text: str, where: str) -> Any:
        """The value of `text` from `where` (a flag or variable); UsageError says both and what is allowed."""
        try:
            if self.choices:
                if text.strip() not in self.choices:
                    raise ValueError(f"one of {', '.join(self.choices)}")
                return text.strip()
            return self.parse(text)
        except ValueError as error:
            code = "usage_invalid_flag" if where.startswith("-") else "config_invalid_value"
            hint = f"see `dify-batch --help` for {self.name}" if self.names else None
            raise UsageError(f'{where}: "{text}" is not {error}', code=code, hint=hint) from None


FLAGS: tuple[Flag, ...] = (
    Flag(dest="input", names=("-i", "--input"), metavar="PATH", group=WHAT, required=True,
         help="the table with one row for each run; - reads standard input",
         doc="CSV, JSON lines, .xlsx, .ods or .parquet (with the extra dify-batch[parquet]), each packed with gzip as "
         "well. The first column is the id of the row unless --id-column says otherwise. Text is read as a stream. "
         "JSON lines are known by the name (.jsonl, .ndjson) or by their first characters."),
    Flag(dest="output", names=("-o", "--output"), metavar="PATH", group=WHAT, required=True, parse=Path,
         help="the JSONL that answers are appended to",
         doc="PATH.retry, PATH.paused and PATH.journal stand beside it. The same command again goes on from "
         "there."),
    Flag(dest="retry", again=False, names=("--retry",), action="on", group=WHAT, default=False,
         help="run only the ids in PATH.retry",
         doc="The file may be edited by hand. Not together with --overwrite."),
    Flag(dest="retry_unknown", again=False, names=("--retry-unknown",), action="on", group=WHAT, default=False,
         help="with --retry: also rows that may still be queued or running; they may run twice",
         doc="--retry alone sends what failed, and what certainly never started. Look at Dify's log for the rest."),
    Flag(dest="limit", again=False, names=("--limit",), metavar="N", group=WHAT, parse=parse_positive,
         help="at most N rows this time",
         doc="For a first try on a few rows; the same command without it does the rest."),
    Flag(dest="sample", again=False, names=("--sample",), metavar="N", group=WHAT, parse=parse_positive,
         help="only N rows, drawn by the hash of their ids",
         doc="The same N each time, whatever their order: a pilot on the same output. The same command without it does "
         "the rest."),
    Flag(dest="dedupe", names=("--dedupe",), action="on", group=WHAT, default=False,
         help="run rows with equal inputs once, and give the others the same result",
         doc="Equal but for the id. The results of the others have `copy_of`. If the first fails, they fail. Not for "
         "workflows that do something with each run, such as sending a mail."),
    Flag(dest="ids", names=("--ids",), metavar="FILE", group=WHAT, parse=Path, shown="all",
         help="only the rows whose ids FILE lists",
         doc="One id a line, as in PATH.retry. Ids that are not in the input are told."),
    Flag(dest="shard", names=("--shard",), metavar="I/N", group=WHAT, parse=parse_shard, shown="all",
         help="only part I of N: the rows whose ids fall into it",
         doc="One part for each process or machine. The files are PATH with IofN before its ending. --rate, "
         "--concurrency, --wait, budgets, --max-failures and --limit stay those of the whole batch: each part takes "
         "one Nth of them. `dify-batch merge` makes one file of all parts."),
    Flag(dest="overwrite", again=False, names=("--overwrite",), action="on", group=WHAT, default=False,
         help="start over; the old files are kept under a dated name",
         doc="Every row is sent, and paid for, again. Not together with --retry."),
    Flag(dest="rerun_changed", again=False, names=("--rerun-changed",), action="on", group=WHAT, default=False,
         help="also run the rows whose inputs have changed since their result",
         doc="Their old lines are kept in PATH.superseded. Without it they are counted and named, and not sent."),
    Flag(dest="allow_other_app", again=False, names=("--allow-other-app",), action="on", group=WHAT, default=False,
         help="go on although the output holds results of another app or server",
         doc="By default an output belongs to one app on one server. Results of --demo and real ones never mix."),
    Flag(dest="app", names=("--app",), metavar="ID", group=WHAT,
         help="an app of the account that is signed in, in place of an app key",
         doc="`dify-batch auth login` signs in. Runs are streamed, at 60 a minute unless --rate says otherwise. A lost "
         "request stays unknown unless DIFY_API_KEY is a key of the same app, too."),
    Flag(dest="app_kind", names=("--app-kind",), metavar="KIND", group=WHAT,
         choices=("workflow", "chatflow", "chat", "agent", "completion"), shown="as the app says",
         help="the kind of the app: workflow, chatflow, chat, agent or completion",
         doc="For a server that does not tell it. With --demo: the kind of app to try."),
    Flag(dest="query_column", names=("--query-column",), metavar="NAME", group=FORMATS, parse=parse_name,
         shown="query", help="the column with the message of a chatflow, chat or agent",
         doc="The other columns are the app's inputs. A row is a conversation of its own."),
    Flag(dest="workspace", names=("--workspace",), metavar="ID", env="DIFY_WORKSPACE_ID", group=WHAT,
         help="the workspace of --app", doc="Newer servers take it with each run."),
    Flag(dest="user", names=("--user",), metavar="TEXT", env="DIFY_BATCH_USER", group=WHAT,
         help="Dify's user; may name columns, as in crm-{customer}",
         doc="By default each slot has a user of its own, so that a lost request is found exactly. With a "
         "user of your own the inputs decide which run was whose."),
    Flag(dest="wait", names=("-w", "--wait"), metavar="SECONDS", env="DIFY_BATCH_WAIT", group=FAST,
         parse=parse_seconds, default=0.0, shown="0", help="pause between requests",
         doc="With one run at a time: from the end of one to the start of the next. With more: between "
         "starts, over all of them. Given without --concurrency, it means one at a time."),
    Flag(dest="concurrency", names=("-c", "--concurrency"), metavar="N|auto", env="DIFY_BATCH_CONCURRENCY",
         group=FAST, parse=parse_concurrency, default=5, shown="5",
         help="runs in flight; auto finds what the server can do",
         doc=f"1 to {MAX_CONCURRENCY}. More than Dify's workers only makes a queue on the server. auto begins at 5, or "
         "where the last invocation on the output stood, and leaves the server a free connection."),
    Flag(dest="rate", names=("--rate",), metavar="N/s|N/m|N/h", env="DIFY_BATCH_RATE", group=FAST,
         parse=parse_rate, shown="none", help="upper bound on starts",
         doc="For a model provider's quota. It holds together with --concurrency: the slower one decides."),
    Flag(dest="workers", names=("--workers",), metavar="N", group=FAST, parse=parse_workers, shown="1 process",
         help="N processes on this machine, one coordinator over them",
         doc="For many cores. The rows are run in parts, as with --shard. --rate, --concurrency, budgets and signals "
         "are those of all processes together. `dify-batch merge` makes one file of the parts."),
    Flag(dest="mode", names=("--mode",), metavar="MODE", env="DIFY_BATCH_MODE", group=FAST,
         choices=("auto", "streaming", "blocking"), default="auto", shown="auto",
         help="how Dify answers: streaming, blocking, or auto",
         doc="auto begins with streaming and sends short runs (95 of 100 under 10 s) in blocking mode, which a default "
         "Dify answers three times as fast. It goes back when a run takes more than 20 s, pauses, or a proxy cuts one. "
         "A lost answer is found as exactly in both. --max-cost keeps it in streaming mode."),
    Flag(dest="timeout", names=("--timeout",), metavar="SECONDS", env="TIMEOUT", group=WRONG,
         parse=parse_timeout, default=300.0, shown="300", help="how long to wait for one run",
         doc="A run that takes longer is not failed: it stays known, and the next invocation collects it."),
    Flag(dest="max_retries", names=("--max-retries",), metavar="N", env="MAX_RETRIES", group=WRONG,
         parse=parse_count, default=3, shown="3", help="attempts after the first",
         doc="What --retry-policy allows to be repeated. An outage of the server uses none of them up."),
    Flag(dest="initial_retry_delay", names=("--initial-retry-delay",), metavar="SECONDS",
         env="INITIAL_RETRY_DELAY", group=WRONG, parse=parse_seconds, default=1.0, shown="1",
         help="the delay before the first repetition",
         doc="It doubles each time, with jitter, up to --max-retry-delay."),
    Flag(dest="max_retry_delay", names=("--max-retry-delay",), metavar="SECONDS", env="MAX_RETRY_DELAY",
         group=WRONG, parse=parse_seconds, default=60.0, shown="60",
         help="the longest delay between repetitions",
         doc="A longer Retry-After of the server is waited for by the whole batch. Not below "
         "--initial-retry-delay."),
    Flag(dest="retry_policy", names=("--retry-policy",), metavar="POLICY", env="DIFY_BATCH_RETRY_POLICY",
         group=WRONG, choices=("strict", "safe", "all"), default="safe", shown="safe",
         help="what is repeated: strict, safe or all",
         doc="strict: only what certainly did not start. safe: also a lost request that the server's log "
         "still does not show after the settle time. all: also failed runs, and what cannot be known, so a "
         "row may run twice."),
    Flag(dest="retry_pass", names=("--retry-pass",), action="on", group=WRONG, default=False,
         help="at the end, run the rows that failed once more",
         doc="When no new row is left, rows whose run failed, or whose answer misses --expect, go again, once. What "
         "Dify refused, and what is unknown, does not."),
    Flag(dest="expect", names=("--expect",), metavar="FILE", group=WRONG, parse=Path, shown="none",
         help="a JSON Schema that the outputs of each row have to fit",
         doc="An answer that misses it is invalid: its row is in PATH.retry, and the answer in the journal and in "
         "`export --failed`. When the first 20 answers all miss it, the batch stops. Needs the extra "
         "dify-batch[expect]."),
    Flag(dest="settle", names=("--settle",), metavar="SECONDS", env="DIFY_BATCH_SETTLE", group=WRONG,
         parse=parse_seconds, default=10.0, shown="10", help="the least time before an empty log counts",
         doc="A run that waits in Dify's queue is in no log. Raise it if the server's queue is long."),
    Flag(dest="stuck_after", names=("--stuck-after",), metavar="DURATION", env="DIFY_BATCH_STUCK_AFTER",
         group=WRONG, parse=parse_duration_or_auto, shown="auto",
         help="when a run that still says running is given up as unknown, such as 40m; or auto",
         doc="A dead worker leaves a run so for ever. auto: 25 minutes, or a quarter more than the longest run that "
         "this output has seen, whichever is longer. Dify itself stops runs after 20 minutes by default."),
    Flag(dest="max_outage", names=("--max-outage",), metavar="DURATION", env="DIFY_BATCH_MAX_OUTAGE",
         group=STOP, parse=parse_duration, default=900.0, shown="15m",
         help="how long an unreachable or throttling server is waited for",
         doc="By the whole batch together; then it stops, and the rows that were not sent stay untouched."),
    Flag(dest="max_failures", names=("--max-failures",), metavar="N|N%", env="DIFY_BATCH_MAX_FAILURES",
         group=STOP, parse=parse_failures, shown="none", help="stop taking rows once so many have failed",
         doc="A percentage is of the rows to run. What runs is finished; the rest stays untouched."),
    Flag(dest="max_runtime", names=("--max-runtime",), metavar="DURATION", env="DIFY_BATCH_MAX_RUNTIME",
         group=STOP, parse=parse_duration, shown="none", help="stop taking rows then; what runs is finished",
         doc="Ends with exit status 75 if rows are left: the same command later goes on. For cron."),
    Flag(dest="max_tokens", names=("--max-tokens",), metavar="N", env="DIFY_BATCH_MAX_TOKENS", group=STOP,
         parse=parse_positive, shown="none", help="begin no row that could pass so many tokens",
         doc="Of the whole output: earlier invocations and failed runs count. For each run in flight the most "
         "that a run has used so far is reserved. Ends with exit status 75."),
    Flag(dest="max_cost", names=("--max-cost",), metavar="X", env="DIFY_BATCH_MAX_COST", group=STOP,
         parse=parse_cost, shown="none", help="begin no row that could pass this cost",
         doc="In the currency that Dify tells; of several, each by itself. Only streams tell prices, so it sets "
         "--mode streaming. Otherwise as --max-tokens."),
    Flag(dest="skip_invalid", names=("--skip-invalid",), action="on", group=WRONG, default=False,
         help="run the valid rows even though others do not pass the checks",
         doc="By default one bad row stops the batch before anything is sent."),
    Flag(dest="keep_order", names=("--keep-order",), action="on", group=FORMATS, default=False,
         help="results in the order of the CSV",
         doc="A result waits for those before it; it is safe in the journal meanwhile."),
    Flag(dest="bom", names=("--no-bom",), action="off", group=FORMATS, default=True,
         help="new files without a byte-order mark",
         doc="The mark makes Excel read UTF-8. Files that exist are left as they are."),
    Flag(dest="encoding", names=("--encoding",), metavar="NAME", group=FORMATS, parse=parse_encoding,
         shown="utf-8", help="the encoding of the input",
         doc="With or without a byte-order mark. It is never guessed."),
    Flag(dest="delimiter", names=("--delimiter",), metavar="CHAR", group=FORMATS, parse=parse_delimiter,
         shown=",", help="what separates the cells of the CSV; tab for tabs",
         doc="One character, or tab, comma, semicolon or pipe. Spreadsheets of many countries export with ;."),
    Flag(dest="sheet", names=("--sheet",), metavar="NAME", group=FORMATS, parse=parse_sheet,
         shown="the first", help="the sheet of a workbook",
         doc="The first that is not hidden. Dates, numbers and the values of formulas are read as a person sees "
         "them, without their formats: 12 % is 0.12."),
    Flag(dest="id_column", names=("--id-column",), metavar="NAME", group=FORMATS, parse=parse_name,
         shown="the first", help="the column that holds the row's id",
         doc="Ids must be unique: they tie results to rows."),
    Flag(dest="constants", names=("--set",), metavar="INPUT=VALUE", group=FORMATS, action="list", parse=parse_pair,
         shown="none", help="an input that is the same for each row; may be repeated",
         doc="Checked like a cell. The table must not have a column for it."),
    Flag(dest="renames", names=("--map",), metavar="COLUMN=INPUT", group=FORMATS, action="list", parse=parse_rename,
         shown="none", help="the column that stands for an input of another name; may be repeated",
         doc="Columns that are called like an input, or like its label, need no word."),
    Flag(dest="files_column", names=("--files-column",), metavar="NAME", group=FORMATS, parse=parse_name,
         shown="none", help="the column for the request's own files list",
         doc="Only for older apps with image upload; file variables of a form are found by their names."),
    Flag(dest="files_root", names=("--files-root",), metavar="DIR", group=FORMATS, parse=Path,
         shown="the input's folder", help="the folder below which cells may name files; several in a cell: a.pdf|b.pdf",
         doc="Symbolic links are followed before it is asked. Relative paths begin at the input's folder. Several "
         "files in one cell stand with | or a new line between them, in JSON lines as a list."),
    Flag(dest="other_ids", names=("--allow-other-ids",), action="on", group=WHAT, default=False,
         help="go on although the ids are not those that the output knows",
         doc="By default an input with fewer than half of the known ids stops before anything is sent, and so does "
         "an id that differs from another only in what cannot be seen."),
    Flag(dest="dry_run", again=False, names=("--dry-run",), action="on", group=LOOK, default=False,
         help="all checks, the plan and the first payloads; sends no run",
         doc="The plan goes to standard output. Asks the server for the app's form, which costs nothing."),
    Flag(dest="demo", names=("--demo",), action="on", group=LOOK, default=False,
         help="run against the built-in simulated Dify; needs no account",
         doc="DIFY_API_KEY and DIFY_API_BASE_URL are not used."),
    Flag(dest="preflight", names=("--no-preflight",), action="off", group=LOOK, default=True,
         help="do not ask for the app's form first",
         doc="Cells are then sent as text and unchecked. For a server that hides its parameters."),
    Flag(dest="json", again=False, names=("--json",), action="on", group=SEE, default=False,
         help="machine output: one JSON object",
         doc="Success: the summary on standard output, nothing on standard error. Anything else: the error "
         "and the summary on standard error, nothing on standard output."),
    Flag(dest="quiet", again=False, names=("-q", "--quiet"), action="on", group=SEE, default=False,
         help="say only what needs a person",
         doc="No progress, and no summary where all went well. Not together with -v."),
    Flag(dest="verbose", again=False, names=("-v", "--verbose"), action="count", group=SEE, default=0,
         help="log what is done; -vv also each request",
         doc="Goes to standard error and, with --log-file, to the file."),
    Flag(dest="log_file", again=False, names=("--log-file",), metavar="PATH", group=SEE, parse=Path, shown="none",
         help="append the log to a file",
         doc="The only place for a traceback. It never holds the API key."),
    Flag(dest="log_format", again=False, names=("--log-format",), metavar="FORMAT",
         env="DIFY_BATCH_LOG_FORMAT", group=SEE,
         choices=("text", "json"), default="text", shown="text", help="log lines as text or json",
         doc="json: one object a line, with time, level, row and message, for a log collector."),
    Flag(dest="report", again=False, names=("--report",), metavar="PATH", group=SEE, parse=Path, shown="none",
         help="write an HTML report at the end",
         doc="One page that opens without a network: what dify-batch report writes."),
    Flag(dest="notify", again=False, names=("--notify",), metavar="URL", env="DIFY_BATCH_NOTIFY", group=SEE,
         parse=parse_urls, shown="none", help="tell somebody at the end, or when a person is needed",
         doc="https:// gets the summary as JSON; any other URL is one that Apprise knows and needs the extra: "
         "dify-batch[notify]. Several with blanks between them. Never the key, never what rows hold."),
    Flag(dest="metrics", again=False, names=("--metrics",), metavar="PORT|FILE", env="DIFY_BATCH_METRICS", group=SEE,
         parse=parse_metrics, shown="none", help="live figures for Prometheus",
         doc="At a port of this machine (127.0.0.1), or as a .prom file for node_exporter. Needs the extra: "
         "dify-batch[metrics]."),
    Flag(dest="env_file", names=("--env-file",), metavar="PATH", group=HELP, parse=Path, shown=".env",
         help="read settings from this file in place of .env",
         doc="A flag goes before the environment, and the environment before the file. The file must exist."),
    Flag(dest="api_key", env="DIFY_API_KEY", metavar="KEY", group=HELP, shown="required",
         help="the app's API key",
         doc="From the app's page in Dify: API Access, API Key; it begins with app-. There is no flag for "
         "it, since other users of a machine see command lines."),
    Flag(dest="base_url", env="DIFY_API_BASE_URL", metavar="URL", group=HELP, default=DEFAULT_BASE_URL,
         shown=DEFAULT_BASE_URL, help="the API address of your Dify",
         doc="For a Dify of your own: https://dify.example.com/v1."),
    Flag(dest="workflow_id", env="DIFY_WORKFLOW_ID", metavar="UUID", group=HELP, shown="the published one",
         help="pins one published version of the workflow",
         doc="So that publishing in the middle of a batch changes nothing for it."),
    Flag(dest="version", names=("--version",), action="version", group=HELP,
         help="show the version and exit"),
    Flag(dest="help", names=("-h", "--help"), action="help", group=HELP, help="show this help and exit"),
)  # fmt: skip
"""All flags and settings; within a group in the order in which help shows them."""

BY_DEST: Mapping[str, Flag] = {flag.dest: flag for flag in FLAGS}
BY_ENV: Mapping[str, Flag] = {flag.env: flag for flag in FLAGS if flag.env}
BY_NAME: Mapping[str, Flag] = {name: flag for flag in FLAGS for name in flag.names}
