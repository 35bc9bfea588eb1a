"""A page out of its data: the template, the style, the scripts and the libraries in one file.

The page may run its own scripts and nothing else: a policy in its head names them by their hash, so markup that got
in by a fault of ours would still do nothing. Data goes through Jinja's escaping, `script_json` or base64.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dify_batch._version import __version__
from dify_batch.reports.html.pack import packed, script_json

PAGE = Path(__file__).parent / "page"
VENDOR = Path(__file__).parent.parent / "vendor"

LIBRARIES = ("uplot/uPlot.iife.min.js", "datatables/dataTables.min.js")
LIBRARY_STYLES = ("uplot/uPlot.min.css", "datatables/dataTables.min.css")
SCRIPTS = ("rows.js", "charts.js", "table.js")


def render(
    *,
    title: str,
    lead_template: str,
    figures: Mapping[str, Any],
    meta: Mapping[str, Any],
    columns: Mapping[str, Any],
    blocks: Sequence[str],
    rows_title: str,
    rows_note: str,
    states: Sequence[str],
    sources: Sequence[str],
    made_at: str,
    libraries: Sequence[str] = (),
    scripts: Sequence[str] = (),
    live: bool = False,
) -> Iterator[str]:
    """The page in pieces, to be written one after the other.

    Args:
        lead_template: the template of what stands above the rows; `figures` are its values.
        meta: what the scripts have to know, see `main.js`.
        columns, blocks: the rows, see `pack`.
        libraries, scripts: further ones, by their path under `vendor/` and their name in `page/`.
        live: whether the page fetches from where it came from.
    """
    code = [read(VENDOR / name) for name in (*LIBRARIES, *libraries)]
    code += [read(PAGE / name) for name in (*SCRIPTS, *scripts, "main.js")]
    allowed = " ".join(f"'sha256-{_hash(each)}'" for each in code)
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        f"connect-src {chr(39)}{'self' if live else 'none'}{chr(39)}; base-uri 'none'; form-action 'none'"
    )
    yield from (
        environment()
        .get_template("page.html.j2")
        .generate(
            **figures,
            title=title,
            figures=lead_template,
            policy=policy,
            styles=[raw(read(VENDOR / name)) for name in LIBRARY_STYLES] + [raw(read(PAGE / "page.css"))],
            scripts=[raw(each) for each in code],
            meta=raw(script_json(meta)),
            columns=packed(script_json(columns)),
            blocks=blocks,
            rows_title=rows_title,
            rows_note=rows_note,
            states=states,
            sources=sources,
            live=live,
            version=__version__,
            made_at=made_at,
            licences="\n\n".join(_licence(name) for name in (*LIBRARIES, *libraries)),
        )
    )


def fragment(template: str, figures: Mapping[str, Any]) -> str:
    """What stands above the rows alone: for a page that is open already."""
    return str(environment().get_template(template).render(**figures))


@cache
def environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def raw(text: str) -> Any:
    """Text of our own, or escaped already, that goes into the page as it is."""
    import markupsafe

    return markupsafe.Markup(text)  # noqa: S704 - see above


@cache
def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _licence(library: str) -> str:
    folder = library.partition("/")[0]
    return f"{folder}\n\n{read(VENDOR / folder / 'LICENSE')}"


def _hash(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
