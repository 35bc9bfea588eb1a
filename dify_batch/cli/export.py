"""`dify-batch export`: results as a table, and the files that they point to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dify_batch.cli.channels import fail, show
from dify_batch.cli.parser import Parser, Subparsers, add_command, add_file, add_json, add_results

if TYPE_CHECKING:
    from dify_batch.reports.downloads import FilesReport
    from dify_batch.reports.export import ExportReport

NAME = "export"
USAGE = "export results.jsonl [-o FILE] [--failed] [--files DIR] [--force] [--json]"


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    what = "RESULTS as a table: .csv, .xlsx, .parquet or .db (SQLite); and the files that outputs point to"
    parser = add_command(commands, NAME, what, "write")
    add_results(parser, complete=complete)
    add_file(parser, "-o", "--output", complete=complete, metavar="FILE", help="the table to write")
    parser.add_argument(
        "--failed", action="store_true", help="the rows without a result, with their inputs; also as .jsonl"
    )
    add_file(
        parser, "--input", complete=complete, metavar="PATH", help="with --failed: the input, where it has been moved"
    )
    add_file(
        parser,
        "--files",
        complete=complete,
        metavar="DIR",
        help="download the files that outputs point to; what is in DIR already stays",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace FILE although no export wrote it; write into any DIR"
    )
    add_json(parser)


@dataclass(frozen=True, slots=True)
class Exported:
    """A table, files, or both."""

    table: ExportReport | None
    files: FilesReport | None

    def as_dict(self) -> dict[str, Any]:
        table = self.table.as_dict() if self.table is not None else {}
        return table | ({"files": self.files.as_dict()} if self.files is not None else {})

    def text(self) -> str:
        return "\n".join(part.text() for part in (self.table, self.files) if part is not None)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    import asyncio

    from dify_batch.errors import DifyBatchError, UsageError

    if "output" not in given and "files" not in given:
        raise UsageError(
            "nothing to write",
            hint="give a table: -o table.csv, or a folder for the files: --files files",
            code="usage_missing_arg",
        )
    results, table, files = Path(given["results"]), None, None
    if "output" in given:
        from dify_batch.reports.export import export

        table = export(
            results,
            Path(given["output"]),
            failed="failed" in given,
            source=given.get("input"),
            force="force" in given,
        )
    if "files" in given:
        from dify_batch.reports.downloads import download

        files = asyncio.run(download(results, Path(given["files"]), force="force" in given))
    done = Exported(table, files)
    machine = "json" in given
    if files is None or not files.failed:
        return show(done, machine=machine)
    error = DifyBatchError(
        done.text(),
        code="files_failed",
        hint="the same command again tries those alone; links of Dify are good for 5 minutes, unless the server says "
        "otherwise (FILES_ACCESS_TIMEOUT)",
        **done.as_dict(),
    )
    return fail(error, machine=machine)
