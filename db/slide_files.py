"""The files of slides, open: as they lie in the file store, or unpacked where a slide consists of many.

OpenSlide reads a slide of many files from a folder. That is made once, by content, kept as long as there is room, and
not removed while anybody on this machine reads from it: whoever does holds a shared lock on the folder. While it is
made it has another name and whoever makes it a lock on it, for which every thread and process of this machine waits.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from db import files
from db.ct_files import disk_error
from db.files import SPARE_BYTES
from db.settings import Settings
from renalcore.errors import StorageFull
from renalcore.io.slide import Slide, open_slide
from renalcore.io.slide.packed import is_packed, is_unpacked, main_file, unpack

UNPACKED_BYTES = 100 * 10**9
"""Of unpacked slides that are kept; beyond it those used longest ago go."""
TOLD_S = 10.0
"""So long whoever asks is told why a slide could not be opened: viewer and gallery of a page ask each by itself."""

_UNFINISHED = "unfinished-"
_ABANDONED_S = 24 * 3600.0


def opened(sha256: str, *, name: str, verify: bool = False) -> Slide:
    """A slide of the file store, open for reading.

    Args:
        sha256: Digest of its file.
        name: What people call it, for messages.
        verify: Read its file through to check that it is what was stored, and that what was unpacked of it is.

    Raises:
        NotFound: The store has no such file.
        DamagedFile: The file's content is not what was stored.
        InputError: It is no slide that can be read.
        StorageFull: There is no room to unpack a slide of many files.
        StorageError: The disk cannot be written.
    """
    path = files.store().local(sha256, copies=_copies(), verify=verify)
    if not is_packed(path):
        return open_slide(path, name=name)
    folder = _root() / sha256
    held = _unpacked(path, folder, name=name)
    try:
        if verify and not is_unpacked(path, folder, name=name):
            held.close()
            _remove(folder)
            held = _unpacked(path, folder, name=name)
        slide = open_slide(main_file(folder), name=name)
    except BaseException:
        held.close()
        raise
    slide.keep(held)
    return slide


@dataclass(slots=True)
class Preparation:
    """A slide that a thread of its own makes ready: fetched where the store is elsewhere, unpacked where it is packed.

    Attributes:
        sha256: Digest of its file.
        done: Ends once the slide can be opened at once, or with the reason why it cannot.
        failed_s: When it ended with one, by `time.monotonic`.
    """

    sha256: str
    done: Future[None] = field(default_factory=Future)
    failed_s: float = 0.0

    @property
    def share(self) -> float:
        """How much of it is unpacked, 0 to 1, whichever process does that; 0 while it is fetched."""
        path = files.store().at_hand(self.sha256, copies=_copies())
        if path is None:
            return 0.0
        with suppress(FileNotFoundError):  # it has its name now
            if not (_root() / self.sha256).exists():
                return min(1.0, _size(_unfinished(self.sha256)) / path.stat().st_size)
        return 1.0


_preparations: dict[str, Preparation] = {}
_preparing = threading.Lock()


def prepare(sha256: str, *, name: str) -> Preparation | None:
    """Begins to make a slide ready, so that nobody who asks for a part of it has to wait for the whole.

    Args:
        sha256: As of `opened`.
        name: As of `opened`.

    Returns:
        What is on its way, whoever asked for it first; None where the slide can be opened at once.

    Raises:
        RenalError: The last attempt failed just now, as `opened` does. Asked later, it is tried again.
    """
    with _preparing:
        known = _preparations.get(sha256)
        if known is not None and not known.done.done():
            return known
        if known is not None:
            if time.monotonic() - known.failed_s < TOLD_S:
                known.done.result()
            del _preparations[sha256]
        path = files.store().at_hand(sha256, copies=_copies())
        if path is not None and (not is_packed(path) or (_root() / sha256).is_dir()):
            return None
        begun = _preparations[sha256] = Preparation(sha256)
        threading.Thread(target=_make_ready, args=(begun, name), name="unpacking", daemon=True).start()
        return begun


def _make_ready(preparation: Preparation, name: str) -> None:
    try:
        opened(preparation.sha256, name=name).close()
    except BaseException as error:  # noqa: BLE001  # raised where somebody waits for it
        preparation.failed_s = time.monotonic()
        preparation.done.set_exception(error)
    else:
        preparation.done.set_result(None)


@contextmanager
def a_folder(needed_bytes: int, *, beside_bytes: int) -> Iterator[Path]:
    """An empty folder with room for the files of a slide; it is gone at the end, unless it was kept.

    Args:
        needed_bytes: Of the files.
        beside_bytes: Of what is written elsewhere in the data folder meanwhile.

    Raises:
        StorageFull: There is no room for both.
        StorageError: The disk cannot be written; also where the block says so by an `OSError`.
    """
    root = _root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        _make_room(root, needed_bytes, beside_bytes=beside_bytes)
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=root) as folder:
            yield Path(folder)
    except OSError as error:
        raise disk_error(error, "The slide") from error


def keep(folder: Path, sha256: str) -> None:
    """Keeps what was unpacked in `a_folder`, so that whoever opens that slide need not do so again."""
    try:
        folder.rename(_root() / sha256)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # it was there already
            raise


def forget(sha256: str) -> None:
    """Removes what was unpacked of a slide, unless somebody reads it."""
    _remove_unless_read(_root() / sha256)


class _Held:
    """A folder that nobody removes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def close(self) -> None:
        """It may be removed."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _unpacked(path: Path, folder: Path, *, name: str) -> _Held:
    """Holds the folder with the files of a packed slide, which is made where it is not there."""
    while (held := _hold(folder)) is None:
        try:
            with _alone(_unfinished(folder.name)) as made:
                if not folder.exists():  # else another was first
                    _make_room(folder.parent, path.stat().st_size)
                    unpack(path, made, name=name)
                    keep(made, folder.name)
        except OSError as error:
            raise disk_error(error, "The slide") from error
    return held


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """Makes a folder, empty also where somebody was killed in it, once nobody else on this machine is in it.

    It is gone at the end, unless it was moved.
    """
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # who was in it left just now
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _is_at(descriptor, folder):
                continue
            if any(folder.iterdir()):
                shutil.rmtree(folder)
                continue
            os.utime(descriptor)  # else it might look abandoned
            try:
                yield folder
            finally:
                if _is_at(descriptor, folder):
                    shutil.rmtree(folder, ignore_errors=True)
            return
        finally:
            os.close(descriptor)


def _hold(folder: Path) -> _Held | None:
    """Holds a folder; None where there is none."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if _is_at(descriptor, folder):
        os.utime(descriptor)
        return _Held(descriptor)
    os.close(descriptor)  # removed since it was opened
    return None


def _is_at(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


def _make_room(root: Path, unpacked_bytes: int, *, beside_bytes: int = 0) -> None:
    """Removes what was used longest ago and is not being read, until both fit."""
    needed_bytes = unpacked_bytes + beside_bytes
    kept = []
    for folder in root.iterdir():
        try:
            used_s = folder.stat().st_mtime
            if not folder.name.startswith(_UNFINISHED):
                kept.append((used_s, _size(folder), folder))
            elif time.time() - used_s > _ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:  # another process removes it
            continue
    held_bytes = sum(size for _, size, _ in kept)
    for _, size, folder in sorted(kept):
        if held_bytes + unpacked_bytes <= UNPACKED_BYTES and _fits(root, needed_bytes):
            return
        if _remove_unless_read(folder):
            held_bytes -= size
    if not _fits(root, needed_bytes):
        raise StorageFull(
            f"The disk has no room to unpack the slide: {needed_bytes / 1e9:.1f} GB are needed. Ask your administrator "
            "to free some space."
        )


def _fits(root: Path, needed_bytes: int) -> bool:
    return shutil.disk_usage(root).free - needed_bytes >= SPARE_BYTES


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _remove_unless_read(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(descriptor, folder):
            _remove(folder)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """Removes a folder, whose name is free at once."""
    gone = folder.with_name(f"{_UNFINISHED}{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):  # another was first
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _unfinished(sha256: str) -> Path:
    """Where a slide is unpacked."""
    return _root() / f"{_UNFINISHED}{sha256}"


def _copies() -> Path:
    """Of slides in a store elsewhere."""
    return Settings.from_env().data_folder / "slides"


def _root() -> Path:
    return Settings.from_env().data_folder / "unpacked"
