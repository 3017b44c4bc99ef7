"""Files and folders appear whole or not at all."""

import errno
import os
import stat
import subprocess
import sys

import pytest

from taskgraph_dnn.errors import FileError
from taskgraph_dnn.io import atomic
from taskgraph_dnn.io.atomic import (
    atomic_folder,
    atomic_path,
    check_new_folder,
    check_writable,
    require_space,
    write_text,
)


def test_a_file_takes_its_name_at_the_end_only(tmp_path):
    target = tmp_path / "a.tsv.gz"
    with atomic_path(target) as draft:
        draft.write_text("new")
        assert draft.parent == tmp_path
        assert draft.name.endswith("a.tsv.gz")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_file(tmp_path, error):
    target = tmp_path / "a"
    target.write_text("old")

    def fail():
        with atomic_path(target) as draft:
            draft.write_text("half of the n")
            raise error

    with pytest.raises(error):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_has_the_rights_that_any_new_file_has(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "atomic") as draft:
        draft.touch()
    modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append((tmp_path / "a").exists()))
    with atomic_path(tmp_path / "a") as draft:
        draft.touch()
    assert order == [False]


def test_a_folder_takes_its_name_at_the_end_only(tmp_path):
    target = tmp_path / "net"
    target.mkdir()
    with atomic_folder(target) as draft:
        (draft / "x").write_text("1")
        assert not any(target.iterdir())
    assert (target / "x").read_text() == "1"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_no_folder(tmp_path):
    def fail():
        with atomic_folder(tmp_path / "net") as draft:
            (draft / "x").write_text("1")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_relative_name_is_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic_path("a") as draft:
        draft.write_text("1")
    assert (tmp_path / "a").read_text() == "1"


def enter(context):
    with context:
        pytest.fail("the context was entered")


def test_what_is_in_the_way_is_named(tmp_path):
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(FileError, match=f"cannot write {tmp_path}/full: it exists and is no regular file"):
        enter(atomic_path(tmp_path / "full"))
    with pytest.raises(FileError, match="null: it exists and is no regular file"):
        enter(atomic_path(os.devnull))
    with pytest.raises(FileError, match=f"there is no folder {tmp_path}/no"):
        enter(atomic_path(tmp_path / "no" / "x"))
    for taken in ("full", "file"):
        with pytest.raises(FileError, match=f"cannot write {tmp_path}/{taken}: it exists and is no empty folder"):
            enter(atomic_folder(tmp_path / taken))
    with pytest.raises(FileError, match=f"there is no folder {tmp_path}/no"):
        enter(atomic_folder(tmp_path / "no" / "x"))
    assert (tmp_path / "full" / "x").exists()


def test_links_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    with atomic_path(tmp_path / "link") as draft:
        draft.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "new"


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/null", "/dev/new", "/proc/self/fd/1", "/proc/new"])
def test_devices_are_never_replaced(path):
    with pytest.raises(FileError, match=f"cannot write {path}: it exists and is no regular file"):
        check_writable(path)


def test_no_permission_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    for check in (check_writable, check_new_folder):
        with pytest.raises(FileError, match=f"no permission to write in {tmp_path}"):
            check(tmp_path / "a")


@pytest.mark.parametrize("atomic", [atomic_path, atomic_folder])
def test_failures_of_the_system_are_ours(tmp_path, atomic):
    def fail():
        with atomic(tmp_path / "a"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(FileError, match="cannot write .*a: .*No space left on device"):
        fail()
    assert not list(tmp_path.iterdir())


def test_room_on_the_disk_is_required(tmp_path):
    require_space(tmp_path / "new", 1, "a")
    with pytest.raises(FileError, match=f"cannot write a: .* bytes more are needed, but {tmp_path} has .* free"):
        require_space(tmp_path, 2**60, "a")


@pytest.mark.parametrize("write", [lambda path: write_text(path, "new"), lambda path: _write_folder(path)])
def test_drafts_of_killed_processes_are_removed(tmp_path, write):
    """Those of processes that live, of other machines and of other targets stay."""
    killed = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    gone, here = int(killed.stdout), atomic._HERE
    target = tmp_path / "target.txt"
    abandoned = tmp_path / f".draft-{here}-{gone}-01234567-target.txt"
    others = [
        tmp_path / f".draft-{here}-{os.getpid()}-01234567-target.txt",
        tmp_path / f".draft-ffffffff-{gone}-01234567-target.txt",
        tmp_path / f".draft-{here}-{gone}-01234567-another.txt",
    ]
    abandoned.mkdir()
    for draft in (abandoned / "file", *others):
        draft.write_text("half")
    write(target)
    assert target.exists()
    assert not abandoned.exists()
    assert all(draft.exists() for draft in others)


def _write_folder(path):
    with atomic_folder(path) as draft:
        (draft / "file").write_text("new")
