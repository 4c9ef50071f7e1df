"""A bundle appears whole or not at all, and the earlier one of that name stays until then, whatever is killed when."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from satchel import publish
from satchel.convert import convert
from satchel.publish import Target
from satchel_runtimes.errors import SatchelError, UsageError


def a_bundle(folder: Path, content: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "bundle.json").write_text(content)
    (folder / "golden").mkdir(exist_ok=True)
    (folder / "golden" / "inputs.json").write_text(content)
    return folder


def content(target: Path) -> str:
    first, second = (target / "bundle.json").read_text(), (target / "golden" / "inputs.json").read_text()
    assert first == second
    return first


def write(target: Path, text: str, *, replace: bool = False) -> None:
    with Target(target, replace=replace) as opened:
        a_bundle(opened.folder, text)
        opened.publish()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "dist" / "minilm.satchel"


@pytest.fixture
def published(target: Path) -> Path:
    """A target that holds a bundle already."""
    write(target, "old")
    return target


def beside(target: Path) -> list[str]:
    return sorted(os.listdir(target.parent))


# Whole or not at all


def test_a_bundle_appears_with_nothing_beside_it(target: Path) -> None:
    write(target, "new")

    assert content(target) == "new"
    assert beside(target) == ["minilm.satchel"]


def test_nothing_is_at_the_target_until_it_is_published(target: Path) -> None:
    with Target(target, replace=False) as opened:
        a_bundle(opened.folder, "new")

        assert not target.exists()
        assert opened.folder.parent == target.parent  # one disk: a rename there is whole


def test_a_relative_target_counts_from_where_the_conversion_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Target(Path("here.satchel"), replace=False) as opened:
        a_bundle(opened.folder, "new")
        monkeypatch.chdir("/")
        opened.publish()

    assert content(tmp_path / "here.satchel") == "new"


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_no_stage_and_no_lock(target: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), Target(target, replace=False) as opened:
        a_bundle(opened.folder, "new")
        raise error

    assert beside(target) == []


def test_an_error_leaves_the_earlier_bundle_as_it_was(published: Path) -> None:
    with pytest.raises(ValueError, match="no"), Target(published, replace=True) as opened:
        a_bundle(opened.folder, "new")
        raise ValueError("no")

    assert content(published) == "old"
    assert beside(published) == ["minilm.satchel"]


def test_what_is_not_published_is_not_kept(published: Path) -> None:
    with Target(published, replace=True) as opened:
        a_bundle(opened.folder, "new")

    assert content(published) == "old"
    assert beside(published) == ["minilm.satchel"]


# Something is there already


def test_an_existing_bundle_is_refused_without_replace_and_left_alone(published: Path) -> None:
    with pytest.raises(UsageError, match="it exists already") as caught:
        write(published, "new")

    assert caught.value.exit_code == 2
    assert "add --replace" in caught.value.fix
    assert content(published) == "old"
    assert beside(published) == ["minilm.satchel"]


def test_an_existing_bundle_is_replaced_when_asked_and_nothing_of_it_stays(published: Path) -> None:
    (published / "extra.bin").write_text("of the old one")

    write(published, "new", replace=True)

    assert content(published) == "new"
    assert sorted(os.listdir(published)) == ["bundle.json", "golden"]
    assert beside(published) == ["minilm.satchel"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")

    with pytest.raises(UsageError, match="it is not a bundle") as caught:
        write(tmp_path / "thesis", "new", replace=True)
    assert caught.value.exit_code == 2
    assert os.listdir(tmp_path / "thesis") == ["chapter1.tex"]
    assert os.listdir(tmp_path) == ["thesis"]


def test_an_empty_folder_is_replaced_when_asked(target: Path) -> None:
    target.mkdir(parents=True)

    write(target, "new", replace=True)

    assert content(target) == "new"


def test_a_file_of_that_name_counts_as_existing_and_can_be_replaced(target: Path) -> None:
    target.parent.mkdir()
    target.write_text("the same as a zip, perhaps")

    with pytest.raises(UsageError, match="it exists already"):
        write(target, "new")
    write(target, "new", replace=True)

    assert content(target) == "new"
    assert beside(target) == ["minilm.satchel"]


@pytest.mark.parametrize("dangling", [True, False])
def test_a_symlink_is_replaced_and_what_it_points_to_stays(published: Path, dangling: bool) -> None:
    link = published.with_name("current.satchel")
    link.symlink_to("gone" if dangling else published)

    with pytest.raises(UsageError, match="it exists already"):
        write(link, "new")
    write(link, "new", replace=True)

    assert not link.is_symlink()
    assert (content(link), content(published)) == ("new", "old")
    assert beside(link) == ["current.satchel", "minilm.satchel"]


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    for below in ("file/out.satchel", "file/deeper/out.satchel"):
        with pytest.raises(UsageError, match="is not a folder") as caught:
            write(tmp_path / below, "new")
        assert "choose another --out" in caught.value.fix
        assert caught.value.exit_code == 2


def test_a_folder_where_nothing_can_be_written_is_refused_before_the_long_work(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # /proc refuses root as well. The model is not even exported: the lock comes first.
    module = importlib.import_module("satchel.attempt")  # not the function of that name
    monkeypatch.setattr(module, "stage_for", lambda *_, **__: pytest.fail("the long work was begun"))

    with pytest.raises(SatchelError, match=r"Cannot write /proc/minilm.satchel") as caught:
        convert(minilm, device="raspberry-pi-5", out="/proc/minilm.satchel", report=tmp_path / "report.json")

    assert "check the path and its permissions" in caught.value.fix
    assert caught.value.exit_code == 1
    assert (tmp_path / "report.json").is_file()


# In one step


@contextmanager
def missing_moments(target: Path) -> Iterator[list[str]]:
    """Open the target again and again; every time that it was not there is noted."""
    seen: list[str] = []
    looks = [0]
    stop, looking = threading.Event(), threading.Event()

    def look() -> None:
        while not stop.is_set():
            try:
                os.close(os.open(target, os.O_RDONLY | os.O_DIRECTORY))
            except OSError as error:
                seen.append(str(error))
            looks[0] += 1
            looking.set()

    reader = threading.Thread(target=look)
    reader.start()
    looking.wait()
    try:
        yield seen
    finally:
        stop.set()
        reader.join()
    assert looks[0] > 10


needs_exchange = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="renameat2 is a Linux call")


@needs_exchange
def test_a_reader_never_finds_the_target_missing_while_it_is_replaced(published: Path) -> None:
    with missing_moments(published) as missing:
        for turn in range(100):
            write(published, str(turn), replace=True)

    assert missing == []
    assert content(published) == "99"


@needs_exchange
def test_a_process_that_has_the_old_bundle_open_reads_it_to_the_end(published: Path) -> None:
    with (published / "bundle.json").open() as opened:
        write(published, "new", replace=True)

        assert opened.read() == "old"


# Where the system cannot exchange two folders


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "_exchange", lambda one, other: False)


@pytest.mark.usefixtures("no_exchange")
def test_without_an_exchange_two_renames_replace_the_bundle(published: Path) -> None:
    write(published, "new", replace=True)

    assert content(published) == "new"
    assert beside(published) == ["minilm.satchel"]


@pytest.mark.usefixtures("no_exchange")
def test_when_the_second_rename_fails_the_first_is_undone(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def rename(one: Path, other: Path) -> None:
        if "staging" in Path(one).name:
            raise OSError(28, "No space left on device")
        real(one, other)

    monkeypatch.setattr(os, "rename", rename)

    with pytest.raises(OSError, match="No space left"):
        write(published, "new", replace=True)
    assert content(published) == "old"
    assert beside(published) == ["minilm.satchel"]


# Killed

SCRIPT = """
import os, signal, sys
from pathlib import Path
from satchel import publish
from satchel.publish import Target

def stop():
    print("there", flush=True)
    sys.stdin.read()

where, target = sys.argv[1], Path(sys.argv[2])
with Target(target, replace=True) as opened:
    (opened.folder / "bundle.json").write_text("half")
    if where == "staged":
        stop()
    if where == "between the renames":
        publish._exchange = lambda one, other: False
        real = os.rename
        os.rename = lambda one, other: (real(one, other), stop())
    if where == "before the sweep of the old":
        publish._remove = lambda path: stop()
    opened.publish()
"""


@contextmanager
def another_process(where: str, target: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that writes to the target and waits at some place; it is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, where, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def test_kill_minus_9_leaves_the_earlier_bundle_and_the_next_run_sweeps_the_rest(published: Path) -> None:
    with another_process("staged", published):
        pass

    assert content(published) == "old"
    assert len(beside(published)) == 3  # the bundle, the stage and the lock file that nobody holds
    write(published, "new", replace=True)
    assert content(published) == "new"
    assert beside(published) == ["minilm.satchel"]


def test_a_run_killed_between_the_two_renames_is_put_right_by_the_next(published: Path) -> None:
    with another_process("between the renames", published):
        pass

    assert not published.exists()
    with pytest.raises(UsageError, match="it exists already"):
        write(published, "new")
    assert content(published) == "old"
    assert beside(published) == ["minilm.satchel"]


def test_a_run_killed_before_it_swept_the_old_bundle_has_published_the_new_one(published: Path) -> None:
    with another_process("before the sweep of the old", published):
        pass

    assert (published / "bundle.json").read_text() == "half"
    with pytest.raises(UsageError, match="it exists already"):
        write(published, "new")
    assert beside(published) == ["minilm.satchel"]


@pytest.mark.parametrize("name", ["model[1].satchel", "model*.satchel", "a b 模型.satchel"])
def test_the_sweep_takes_names_as_they_are(tmp_path: Path, name: str) -> None:
    for stale in (f".{name}.staging-99999", ".model2.satchel.staging-99999", f".{name}.staging-b.staging-99999"):
        a_bundle(tmp_path / stale, "half")

    write(tmp_path / name, "new")

    # The other two belong to targets of other names, which may be in the making.
    assert sorted(os.listdir(tmp_path)) == sorted(
        [name, ".model2.satchel.staging-99999", f".{name}.staging-b.staging-99999"]
    )


# Two at once


def test_two_conversions_to_one_target_do_not_mix(published: Path) -> None:
    with another_process("staged", published):
        with pytest.raises(SatchelError, match="another conversion is writing to it") as caught:
            write(published, "mine", replace=True)

        assert caught.value.exit_code == 1
        assert "choose another --out" in caught.value.fix
        assert content(published) == "old"
        assert len(beside(published)) == 3  # the other's stage and lock are left alone


def test_two_threads_to_one_target_do_not_mix_either(published: Path) -> None:
    with Target(published, replace=True) as first:
        a_bundle(first.folder, "first")
        with pytest.raises(SatchelError, match="another conversion is writing to it"):
            write(published, "second", replace=True)
        first.publish()

    assert content(published) == "first"
    assert beside(published) == ["minilm.satchel"]


def test_conversions_to_different_targets_do_not_wait_for_each_other(published: Path) -> None:
    with another_process("staged", published):
        write(published.with_name("other.satchel"), "mine")

    assert content(published.with_name("other.satchel")) == "mine"


def test_of_many_that_want_a_target_at_once_one_gets_it_and_the_others_are_told(target: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from satchel.publish import Target\n"
        "from satchel_runtimes.errors import SatchelError\n"
        "sys.stdin.read()\n"
        "try:\n"
        "    with Target(Path(sys.argv[1]), replace=False) as opened:\n"
        "        (opened.folder / 'bundle.json').write_text(sys.argv[2])\n"
        "        opened.publish()\n"
        "except SatchelError as error:\n"
        "    sys.exit(error.exit_code)\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(target), str(number)], stdin=subprocess.PIPE)
        for number in range(4)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    codes = [process.wait() for process in started]

    assert codes.count(0) == 1
    assert set(codes) <= {0, 1, 2}
    assert (target / "bundle.json").read_text() == str(codes.index(0))
    assert beside(target) == ["minilm.satchel"]
