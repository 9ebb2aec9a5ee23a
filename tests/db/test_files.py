from __future__ import annotations

import errno
import hashlib
import io
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileOpener, LocalFileSystem

from db.files import FileStore, store
from renalcore.errors import NotFound, StorageError, StorageFull

CONTENT = b"a field " * 400_000  # 3.2 MB: more than one chunk
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = b"another field"
OTHER_SHA256 = hashlib.sha256(OTHER).hexdigest()


@pytest.fixture(params=["file", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FileStore]:
    if request.param == "file":
        yield FileStore(f"file://{tmp_path}/files")
    else:
        files = FileStore("memory://renal-files")
        yield files
        fsspec.filesystem("memory").store.clear()


def test_a_file_comes_back_under_the_hash_of_its_content(files: FileStore) -> None:
    assert files.put(io.BytesIO(CONTENT)) == (SHA256, len(CONTENT))
    assert files.exists(SHA256)
    assert files.read(SHA256) == CONTENT
    with files.open(SHA256) as stream:
        stream.seek(2)
        assert stream.read(5) == b"field"
    assert list(files.names()) == [SHA256]


def test_the_same_content_is_kept_once(files: FileStore) -> None:
    assert files.put(io.BytesIO(CONTENT)) == files.put(io.BytesIO(CONTENT))
    assert list(files.names()) == [SHA256]


def test_an_empty_file_is_a_file(files: FileStore) -> None:
    sha256, size = files.put(io.BytesIO(b""))
    assert (files.read(sha256), size) == (b"", 0)


def test_nothing_is_left_under_incoming(files: FileStore) -> None:
    files.put(io.BytesIO(CONTENT))
    files.put(io.BytesIO(CONTENT))
    files.confirm([SHA256])
    assert [path for path in files._fs.find(files._root) if "incoming" in path] == []


def test_what_a_killed_upload_left_is_swept_and_one_going_on_is_not(files: FileStore) -> None:
    unasked = pytest.fail
    assert files.sweep(is_named=unasked) == 0, "nothing was uploaded ever"
    sha256, _ = files.put(io.BytesIO(CONTENT))
    files.confirm([sha256])
    files._fs.makedirs(f"{files._root}/incoming", exist_ok=True)
    files._fs.pipe_file(f"{files._root}/incoming/abandoned", b"half a fie")
    assert files.sweep(is_named=unasked) == 0, "it may be going on"
    time.sleep(0.05)
    assert files.sweep(is_named=unasked, older_than=timedelta(seconds=0.02)) == 1
    assert files._fs.ls(f"{files._root}/incoming", detail=False) == []
    assert files.read(sha256) == CONTENT


def test_what_was_stored_and_then_refused_is_swept_after_a_day(files: FileStore) -> None:
    at_once, unasked = timedelta(seconds=-1), pytest.fail
    files.put(io.BytesIO(CONTENT))
    assert files.sweep(is_named=unasked) == 0, "it may be registered yet"
    assert files.sweep(is_named=[SHA256].__contains__, older_than=at_once) == 0, "it was"
    files.put(io.BytesIO(OTHER))
    assert files.sweep(is_named=[].__contains__, older_than=at_once) == 1, "it was refused"
    assert list(files.names()) == [SHA256]


def test_what_arrived_in_a_transaction_that_was_never_committed_is_swept_after_a_day(
    files: FileStore, tmp_path: Path
) -> None:
    (tmp_path / "came").write_bytes(CONTENT)

    def arrive() -> None:
        with files.arriving({SHA256: tmp_path / "came"}) as settle:
            settle()

    at_once, unasked = timedelta(seconds=-1), pytest.fail
    arrive()
    assert files.sweep(is_named=unasked) == 0, "it may be committed yet"
    assert files.sweep(is_named=[SHA256].__contains__, older_than=at_once) == 0, "it was, and nobody confirmed it"
    assert files.sweep(is_named=unasked, older_than=at_once) == 0, "which is noted"
    arrive()
    files.confirm([SHA256])
    assert files.sweep(is_named=unasked, older_than=at_once) == 0
    assert list(files.names()) == [SHA256]
    arrive()
    assert files.sweep(is_named=[].__contains__, older_than=at_once) == 1
    assert files._fs.find(files._root) == []

    def arrived_once_more(_: str) -> bool:
        arrive()
        return False

    a_day = timedelta(seconds=1)
    arrive()
    time.sleep(1.1)
    assert files.sweep(is_named=arrived_once_more, older_than=a_day) == 0
    time.sleep(1.1)
    assert files.sweep(is_named=[].__contains__, older_than=a_day) == 1, "which was never committed either"


def test_a_file_that_is_not_there_is_told(files: FileStore) -> None:
    assert not files.exists("0" * 64)
    for ask in (files.read, files.open):
        with pytest.raises(NotFound, match="no file 000000000000"):
            ask("0" * 64)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_a_name_that_is_no_hash_reaches_no_path(files: FileStore, name: str) -> None:
    for ask in (files.read, files.open, files.exists):
        with pytest.raises(NotFound, match="64 hexadecimal digits"):
            ask(name)


def test_a_file_altered_on_the_disk_is_never_handed_out(tmp_path: Path) -> None:
    files = FileStore(f"file://{tmp_path}")
    files.put(io.BytesIO(CONTENT))
    (tmp_path / SHA256[:2] / SHA256).write_bytes(CONTENT[:-1] + b"X")
    for ask in (files.read, files.open):
        with pytest.raises(StorageError, match=f"{SHA256[:12]} was damaged or altered"):
            ask(SHA256)
    with files.open(SHA256, verify=False) as stream:
        assert stream.read(7) == b"a field"


def test_a_file_cut_short_on_the_disk_is_mended_by_storing_it_again(tmp_path: Path) -> None:
    files = FileStore(f"file://{tmp_path}")
    files.put(io.BytesIO(CONTENT))
    (tmp_path / SHA256[:2] / SHA256).write_bytes(CONTENT[:100])
    files.put(io.BytesIO(CONTENT))
    assert files.read(SHA256) == CONTENT


def test_a_stream_that_breaks_off_leaves_nothing(files: FileStore) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise ConnectionResetError("the browser went away")
            return super().read(size)

    with pytest.raises((StorageError, ConnectionResetError)):
        files.put(Broken(CONTENT))
    assert files._fs.find(files._root) == []


def test_many_threads_may_store_the_same_file_at_once(files: FileStore) -> None:
    results: list[tuple[str, int]] = []
    threads = [threading.Thread(target=lambda: results.append(files.put(io.BytesIO(CONTENT)))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(SHA256, len(CONTENT))] * 6
    assert files.read(SHA256) == CONTENT


class SmallDisk(LocalFileSystem):
    """A disk on which a file of more than two megabytes finds no space."""

    protocol = "smalldisk"

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> LocalFileOpener:
        opened = super()._open(path, mode, block_size, **options)
        if mode == "wb":
            write = opened.f.write

            class Full:
                def write(self, data: bytes) -> int:
                    if opened.f.tell() + len(data) > 2_000_000:
                        raise OSError(errno.ENOSPC, "No space left on device")
                    return int(write(data))

            opened.write = Full().write
        return opened


def test_a_full_disk_is_told_and_leaves_no_part_of_the_file(tmp_path: Path) -> None:
    fsspec.register_implementation("smalldisk", SmallDisk, clobber=True)
    files = FileStore(f"smalldisk://{tmp_path}/files")
    small = files.put(io.BytesIO(b"fits"))[0]
    files.confirm([small])
    with pytest.raises(
        StorageFull, match=r"file store is full: a file of at least 2\.1 MB was not saved\. Free some space"
    ):
        files.put(io.BytesIO(CONTENT))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [small]
    assert files.read(small) == b"fits"


def test_a_disk_that_is_really_full_is_told(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine lets no test mount a small disk")
    try:
        files = FileStore(f"file://{tmp_path}/files")
        with pytest.raises(StorageFull):
            files.put(io.BytesIO(CONTENT))
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        assert files.put(io.BytesIO(b"fits"))[1] == 4
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_files_that_arrive_together_and_cannot_all_be_named_are_swept(tmp_path: Path) -> None:
    kept = FileStore(f"file://{tmp_path / 'store'}")
    files = {}
    for content in (b"one", b"two"):
        path = tmp_path / content.decode()
        path.write_bytes(content)
        files[hashlib.sha256(content).hexdigest()] = path
    blocked = tmp_path / "store" / list(files)[1][:2]
    blocked.parent.mkdir()
    blocked.touch()
    with pytest.raises(StorageError, match="cannot be written"), kept.arriving(files) as settle:
        settle()
    blocked.unlink()
    assert kept.sweep(is_named=[].__contains__, older_than=timedelta(seconds=-1)) == 1
    with kept.arriving(files):
        pass  # refused: nothing is settled
    assert list(kept.names()) == []
    with kept.arriving(files) as settle:
        settle()
    kept.confirm(files)
    assert set(kept.names()) == set(files)
    assert [kept.read(sha256) for sha256 in files] == [path.read_bytes() for path in files.values()]
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


class Meanwhile(LocalFileSystem):
    """A disk on which `OTHER_SHA256` cannot be put in doubt, and on which somebody is at work just before."""

    protocol = "meanwhile"

    def touch(self, path: str, truncate: bool = True, **options: Any) -> None:
        if OTHER_SHA256 in path:
            Meanwhile.at_work()
            raise OSError(errno.EIO, "Input/output error")
        super().touch(path, truncate, **options)

    @staticmethod
    def at_work() -> None: ...


def test_a_file_that_another_registration_found_in_the_store_outlives_the_one_that_failed(tmp_path: Path) -> None:
    (tmp_path / "shared").write_bytes(CONTENT)
    (tmp_path / "own").write_bytes(OTHER)
    shared, own = {SHA256: tmp_path / "shared"}, {OTHER_SHA256: tmp_path / "own"}
    fsspec.register_implementation("meanwhile", Meanwhile, clobber=True)
    kept = FileStore(f"meanwhile://{tmp_path}/store")
    with kept.arriving(shared) as settle_another:
        Meanwhile.at_work = staticmethod(settle_another)
        with pytest.raises(StorageError), kept.arriving(shared | own) as settle:
            settle()
    kept.confirm(shared)
    assert kept.read(SHA256) == CONTENT


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot be written"):
        FileStore(f"file://{tmp_path}/files").put(io.BytesIO(CONTENT))


def test_the_settings_name_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENAL_FILES", f"file://{tmp_path}/elsewhere")
    sha256, _ = store().put(io.BytesIO(b"x"))
    assert (tmp_path / "elsewhere" / sha256[:2] / sha256).read_bytes() == b"x"
