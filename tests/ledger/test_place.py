"""Where an output may stand, told before anything is read, made or sent."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dify_batch.errors import Exit, UsageError
from dify_batch.ledger.place import Kind, kind_of, require_output, same_file

posix = pytest.mark.skipif(os.name != "posix", reason="such files are those of POSIX")


def refused(output: Path, source: str = "data.csv", *, overwrite: bool = False) -> str:
    before = sorted(output.parent.iterdir()) if output.parent.is_dir() else []
    with pytest.raises(UsageError) as caught:
        require_output(output, source, overwrite=overwrite)
    assert caught.value.exit_status == Exit.USAGE
    assert caught.value.hint
    assert (sorted(output.parent.iterdir()) if output.parent.is_dir() else []) == before
    return f"{caught.value.message}\n{caught.value.hint}"


@posix
@pytest.mark.parametrize("name", ["", ".journal", ".retry", ".paused", ".superseded", ".lock"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "link", "device"])
def test_what_is_no_regular_file(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / f"results.jsonl{name}"
    listener = socket.socket(socket.AF_UNIX)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            os.chdir(tmp_path)  # the path of a socket must be short
            listener.bind(path.name)
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to("nowhere" if name else "/dev/null")
        case "device":
            path.symlink_to("/dev/zero")
    assert path.name in refused(tmp_path / "results.jsonl")
    listener.close()


@posix
def test_a_hard_link_is_refused_and_a_symbolic_one_is_the_file_itself(tmp_path: Path) -> None:
    real = tmp_path / "results.jsonl"
    real.write_bytes(b"")
    link = tmp_path / "link.jsonl"
    link.symlink_to(real)
    assert require_output(link, "data.csv").results.name == "results.jsonl"
    os.link(real, tmp_path / "hard.jsonl")
    for name in ("hard.jsonl", "results.jsonl", "link.jsonl"):
        assert "hard link" in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["", ".journal", ".retry", ".paused", ".superseded", ".lock"])
def test_the_input_is_no_file_of_the_output(tmp_path: Path, name: str) -> None:
    output = tmp_path / "results.jsonl"
    assert "--input" in refused(output, str(tmp_path / f"results.jsonl{name}"))
    if os.name == "posix":
        (tmp_path / f"results.jsonl{name}").write_bytes(b"")
        (tmp_path / "alias").symlink_to(tmp_path / f"results.jsonl{name}")
        assert "--input" in refused(output, str(tmp_path / "alias"))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".xlsx", ".json", ".CSV", ".parquet", ".db"])
def test_a_name_that_promises_another_format(tmp_path: Path, suffix: str) -> None:
    told = refused(tmp_path / f"out{suffix}")
    assert f"dify-batch export {tmp_path / 'out.jsonl'} -o" in told
    assert f"-o {tmp_path / 'out.jsonl'}" in told
    (tmp_path / f"out{suffix}").write_bytes(b"")  # an output of before has its name
    require_output(tmp_path / f"out{suffix}", "data.csv")


@pytest.mark.parametrize("name", ["results.jsonl", "results", "out.ndjson", "a.b.c", "csv"])
def test_names_that_promise_nothing_else(tmp_path: Path, name: str) -> None:
    assert require_output(tmp_path / name, "-").results == tmp_path / name


@posix
@pytest.mark.parametrize(("name", "overwrite", "fits"), [
    ("r" * 244, False, True),
    ("r" * 245, False, False),
    ("é" * 122, False, True),
    ("é" * 123, False, False),
    ("r" * 244, True, False),
    ("r" * 227, True, True),
])  # fmt: skip
def test_names_that_leave_no_room_for_what_stands_beside(
    tmp_path: Path, name: str, overwrite: bool, fits: bool
) -> None:
    if fits:
        paths = require_output(tmp_path / name, "-", overwrite=overwrite)
        for path in paths.all:
            path.write_bytes(b"")
    else:
        assert "too long" in refused(tmp_path / name, overwrite=overwrite)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "mkdir -p" in refused(tmp_path / "nowhere" / "results.jsonl")
    (tmp_path / "file").write_bytes(b"")
    assert "there is no folder" in refused(tmp_path / "file" / "results.jsonl")


@posix
def test_a_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may enter every folder, so the system's refusal is played."""
    hidden = tmp_path / "theirs"
    hidden.mkdir()
    real = os.stat

    def refuse(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if Path(path).parent == hidden:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, follow_symlinks=follow_symlinks)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        assert kind_of(hidden / "results.jsonl") is Kind.HIDDEN
        with pytest.raises(UsageError, match="may not be entered by this user") as caught:
            require_output(hidden / "results.jsonl", "data.csv")
    assert "chmod" in str(caught.value.hint)


@posix
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_may_not_be_entered(tmp_path: Path) -> None:
    hidden = tmp_path / "theirs"
    hidden.mkdir(mode=0o600)
    assert "may not be entered" in refused(hidden / "results.jsonl")


def test_two_names_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    assert same_file(tmp_path / "a", tmp_path / "x" / ".." / "a")
    assert not same_file(tmp_path / "a", tmp_path / "b")
    assert not same_file(tmp_path / "a\0", tmp_path / "b")
