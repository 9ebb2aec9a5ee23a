"""Files kept by their content: each once, under its sha256, on any storage that fsspec reaches."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem
from sqlalchemy.orm import Session

from db.engine import once_committed
from db.settings import Settings
from renalcore.errors import DamagedFile, NotFound, StorageError, StorageFull

CHUNK_BYTES = 1 << 20
SPARE_BYTES = 1 << 30
"""Left free on the disk: the database and everything else that works there needs room too."""
COPIES_BYTES = 100 * 10**9
"""Of files of a distant store that `FileStore.local` keeps; beyond it those used longest ago go."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_DOUBT = ".unconfirmed"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class FileStore:
    """A content-addressed store; safe to use from several threads, processes and machines at once.

    A file lies at `ab/abcdef...` under the store's address. It is written under `incoming/` first and moved when it
    is complete, so that a name that exists is a file that is whole.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._root = cast(tuple[Any, str], fsspec.url_to_fs(url))

    def put(self, stream: BinaryIO) -> tuple[str, int]:
        """Stores what `stream` holds from its present position on, without reading it into memory at once.

        Until it is confirmed, `sweep` doubts that a record names it: what was refused after it was stored is removed.

        Returns:
            The sha256 of the content in hexadecimal, and its size in bytes. The same content again changes nothing.

        Raises:
            StorageFull: No space is left. Nothing of the file remains.
            StorageError: The store cannot be written.
        """
        digest, size = hashlib.sha256(), 0
        try:
            incoming = self._incoming()
            try:
                with self._fs.open(incoming, "wb") as target:
                    while chunk := stream.read(CHUNK_BYTES):
                        digest.update(chunk)
                        size += len(chunk)
                        target.write(chunk)
                    _sync(target)
                self._fs.touch(self._doubt(digest.hexdigest()))  # before it is seen whether it is there: see `sweep`
                self._settle(incoming, digest.hexdigest(), size)
            finally:
                self._discard(incoming)
        except OSError as error:
            raise _unwritten(error, f"a file of at least {_told(size)} was not saved") from error
        return digest.hexdigest(), size

    @contextmanager
    def arriving(self, files: Mapping[str, Path]) -> Iterator[Callable[[], None]]:
        """Files of this machine on their way into the store: under their names there only at the end of a transaction.

        What takes time comes first: they are linked below `incoming/`, or copied where the store lies elsewhere. The
        files themselves stay where they are.

        Args:
            files: Where each lies, by the digest of its content as its writer counted it.

        Yields:
            What gives all of them their names: to be called when nothing else can be refused any more. Until they are
            confirmed, `sweep` doubts that the transaction was committed, and removes what was not.

        Raises:
            NotFound: A file is neither there nor in the store.
            StorageFull: No space is left.
            StorageError: The store cannot be written.
        """
        brought: dict[str, tuple[str, int]] = {}
        try:
            try:
                for sha256, path in files.items():
                    if path.exists():
                        brought[sha256] = self._incoming(), path.stat().st_size
                        self._bring(path, brought[sha256][0])
                    elif not self.exists(sha256):
                        raise NotFound("What was uploaded is no longer on the server. Upload it again.")
            except OSError as error:
                raise _unwritten(error, "nothing was registered") from error
            yield lambda: self._settle_all(brought)
        finally:
            for incoming, _ in brought.values():
                self._discard(incoming)

    def confirm(self, names: Iterable[str]) -> None:
        """The transaction that names what has arrived was committed."""
        for sha256 in names:
            self._discard(self._doubt(sha256))

    def local(self, sha256: str, *, copies: Path, verify: bool = False) -> Path:
        """Where a file lies on this machine, for a library that reads from a path.

        Args:
            sha256: Which file.
            copies: Folder that keeps a copy where the store is not on this machine, up to `COPIES_BYTES` in all.
            verify: Read it through to check its content, which takes seconds a gigabyte.

        Raises:
            NotFound: The store has no such file.
            DamagedFile: The file's content is not what was stored.
        """
        here = self.at_hand(sha256, copies=copies)
        if isinstance(self._fs, LocalFileSystem):
            if here is None:
                raise _missing(sha256)
            if verify:
                _check_file(sha256, here)
            return here
        copy = copies / sha256
        if here is None:
            copies.mkdir(parents=True, exist_ok=True)
            incoming = copies / f"{sha256}.{secrets.token_hex(8)}"
            try:
                self._fs.get_file(self._path(sha256), str(incoming))
                incoming.replace(copy)
            except FileNotFoundError as error:
                raise _missing(sha256) from error
            finally:
                incoming.unlink(missing_ok=True)
            _trim(copies, keep=copy)
        if verify:
            try:
                _check_file(sha256, copy)
            except DamagedFile:
                copy.unlink()  # whoever tries again fetches it anew
                raise
        os.utime(copy)
        return copy

    def at_hand(self, sha256: str, *, copies: Path) -> Path | None:
        """Where `local` finds a file at once; None where it has to fetch it, or the store does not have it."""
        path = self._path(sha256)
        here = Path(path) if isinstance(self._fs, LocalFileSystem) else copies / sha256
        return here if here.is_file() else None

    def open(self, sha256: str, *, verify: bool = True) -> BinaryIO:
        """The file as a stream that can be read and sought in.

        Args:
            sha256: Which file.
            verify: Read it through beforehand to check its content. Only for files too large for that, say no.

        Raises:
            NotFound: The store has no such file.
            DamagedFile: The file's content is not what was stored.
        """
        path = self._path(sha256)
        try:
            if verify:
                with self._fs.open(path, "rb") as source:
                    _check(sha256, _sha256_of(source))
            return cast(BinaryIO, self._fs.open(path, "rb"))
        except FileNotFoundError as error:
            raise _missing(sha256) from error

    def read(self, sha256: str) -> bytes:
        """The whole content of a file, checked against its sha256.

        Raises:
            NotFound: The store has no such file.
            DamagedFile: The file's content is not what was stored.
        """
        try:
            content: bytes = self._fs.cat_file(self._path(sha256))
        except FileNotFoundError as error:
            raise _missing(sha256) from error
        _check(sha256, hashlib.sha256(content).hexdigest())
        return content

    def exists(self, sha256: str) -> bool:
        """Whether the store has the file."""
        return bool(self._fs.exists(self._path(sha256)))

    def names(self) -> Iterator[str]:
        """The sha256 of every file in the store, in no order."""
        for path in self._fs.find(self._root):
            name = path.rsplit("/", 1)[-1]
            if _SHA256.fullmatch(name):
                yield name

    def sweep(self, *, is_named: Callable[[str], bool], older_than: timedelta = timedelta(days=1)) -> int:
        """Removes what was left behind: by a `put` that was killed half-way, by a transaction never committed.

        Args:
            is_named: Whether the database names a file, asked of those alone that were never confirmed.
            older_than: What is younger may be going on.

        Returns:
            The number of files removed.
        """
        incoming, removed = f"{self._root}/incoming", 0
        if not self._fs.exists(incoming):
            return 0
        for path in self._fs.ls(incoming, detail=False):
            try:
                if not self._is_older(path, older_than):
                    continue
                sha256 = path.rsplit("/", 1)[-1].removesuffix(_DOUBT)
                if not path.endswith(_DOUBT):
                    self._fs.rm_file(path)
                    removed += 1
                    continue
                if not is_named(sha256) and self.exists(sha256):
                    removed += self._remove_unless_younger(sha256, older_than)
                if self._is_older(path, older_than):  # else it arrived once more, which is in doubt again
                    self._fs.rm_file(path)
            except FileNotFoundError:  # completed, or swept by another worker, since it was listed
                continue
        return removed

    def _remove_unless_younger(self, sha256: str, age: timedelta) -> bool:
        """Removes a file, unless it arrived once more while that was being done."""
        path, aside = self._path(sha256), self._incoming()
        self._fs.mv(path, aside)
        with suppress(FileNotFoundError):  # it was confirmed
            if self._is_older(self._doubt(sha256), age):
                self._fs.rm_file(aside)
                return True
        self._fs.mv(aside, path)
        return False

    def _is_older(self, path: str, age: timedelta) -> bool:
        return bool(datetime.now(UTC) - self._fs.modified(path) > age)

    def _path(self, sha256: str) -> str:
        if not _SHA256.fullmatch(sha256):
            raise NotFound("A stored file is named by 64 hexadecimal digits.")
        return f"{self._root}/{sha256[:2]}/{sha256}"

    def _incoming(self) -> str:
        """A place for a file that is not complete yet."""
        self._fs.makedirs(f"{self._root}/incoming", exist_ok=True)
        return f"{self._root}/incoming/{secrets.token_hex(16)}"

    def _doubt(self, sha256: str) -> str:
        """What stands here while it is not known that the transaction which names the file was committed."""
        return f"{self._root}/incoming/{sha256}{_DOUBT}"

    def _bring(self, path: Path, incoming: str) -> None:
        if isinstance(self._fs, LocalFileSystem):
            os.utime(path)  # else it would look like one that a `put` left behind
            try:
                os.link(path, incoming)
            except OSError:  # the store lies on another disk, or its disk has no links
                pass
            else:
                with path.open("rb") as source:
                    os.fsync(source.fileno())
                return
        with path.open("rb") as source, self._fs.open(incoming, "wb") as target:
            shutil.copyfileobj(source, target, CHUNK_BYTES)
            _sync(target)

    def _settle_all(self, brought: Mapping[str, tuple[str, int]]) -> None:
        try:
            for sha256, (incoming, size) in brought.items():
                self._fs.touch(self._doubt(sha256))  # before it is seen whether it is there: see `sweep`
                self._settle(incoming, sha256, size)
        except OSError as error:
            # What has its name by now stays, in doubt: another transaction may have found it there and count on it.
            raise _unwritten(error, "nothing was registered") from error

    def _settle(self, incoming: str, sha256: str, size: int) -> None:
        path = self._path(sha256)
        if self._fs.exists(path) and self._fs.size(path) == size:
            return
        self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if isinstance(self._fs, LocalFileSystem):
            Path(incoming).replace(path)  # one step even when the name exists
            _sync_folder(Path(path).parent)
        else:
            self._fs.mv(incoming, path)

    def _discard(self, incoming: str) -> None:
        if self._fs.exists(incoming):
            self._fs.rm_file(incoming)


def store() -> FileStore:
    """The file store of the settings."""
    return _cached_store(Settings.from_env().files_url)


def confirm_once_committed(session: Session, sha256: str) -> None:
    """Confirms a file when the session's transaction, which names it, is committed."""
    files = store()

    def confirm() -> None:
        with suppress(OSError):  # then `sweep` asks whether it is named
            files.confirm([sha256])

    once_committed(session, confirm)


@functools.cache
def _cached_store(url: str) -> FileStore:
    return FileStore(url)


def _trim(copies: Path, *, keep: Path) -> None:
    """Removes copies, those used longest ago first; what somebody still reads stays readable until it is closed."""
    known = {path: path.stat() for path in copies.iterdir()}
    held = sum(stat.st_size for stat in known.values())
    for path in sorted(known, key=lambda path: known[path].st_mtime):
        if held <= COPIES_BYTES:
            return
        if path != keep:
            path.unlink(missing_ok=True)
            held -= known[path].st_size


def _sha256_of(source: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _sync(target: IO[bytes]) -> None:
    """Makes the written bytes outlive a power cut, where the storage is a disk of this machine."""
    target.flush()
    try:
        descriptor = target.fileno()
    except (OSError, AttributeError):  # an object store: complete when closed
        return
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _told(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:.1f} kB"


def _unwritten(error: OSError, so: str) -> StorageError:
    if error.errno in _NO_SPACE:
        return StorageFull(
            f"The file store is full: {so}. Free some space, then upload it again; what was stored before is untouched."
        )
    return StorageError(f"The file store cannot be written ({error.strerror or type(error).__name__}).")


def _check(sha256: str, actual: str) -> None:
    if actual != sha256:
        raise DamagedFile(
            f"The stored file {sha256[:12]} was damaged or altered on its disk. Restore it from a backup."
        )


def _check_file(sha256: str, path: Path) -> None:
    with path.open("rb") as source:
        _check(sha256, _sha256_of(source))


def _missing(sha256: str) -> NotFound:
    return NotFound(f"The file store has no file {sha256[:12]}. Restore it from a backup, or upload it again.")
