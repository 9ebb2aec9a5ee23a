"""Scans and labels in the file store."""

from __future__ import annotations

import gzip
import io
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest

from db import ct_files
from db.files import FileStore
from renalcore.errors import DamagedFile, NotFound, StorageFull
from tests.renalcore.ct.bright import LEFT, RIGHT, body


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    monkeypatch.setenv("RENAL_DATA", str(tmp_path))
    monkeypatch.setenv("RENAL_FILES", f"file://{tmp_path / 'files'}")
    return FileStore(f"file://{tmp_path / 'files'}")


def test_a_scan_and_its_labels_lie_at_the_same_place_when_they_are_read_back(store: FileStore) -> None:
    volume, labels = body([RIGHT, LEFT])
    stored = nibabel.Nifti1Image(volume.hu.transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ volume.affine)
    sha256, _ = store.put(io.BytesIO(gzip.compress(stored.to_bytes(), 1)))
    read = ct_files.image(sha256, name="portal")
    assert np.array_equal(read.hu, volume.hu)
    assert np.allclose(read.affine, volume.affine)

    labels_sha256, size = ct_files.put_labels(labels, read)
    content = store.read(labels_sha256)
    assert (len(content), ct_files.put_labels(labels, read)) == (size, (labels_sha256, size)), "the same file again"
    back = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
    assert np.array_equal(np.asarray(back.dataobj).transpose(2, 1, 0), labels)
    assert np.allclose(back.affine, stored.affine)


def test_one_volume_is_at_hand_at_a_time_and_goes_before_the_next_is_read(store: FileStore) -> None:
    image = gzip.compress(nibabel.Nifti1Image(body([RIGHT])[0].hu.transpose(2, 1, 0), np.diag([5, 5, 5, 1])).to_bytes())
    one, two = (store.put(io.BytesIO(content))[0] for content in (image, image + gzip.compress(b"")))

    def second() -> bool:
        with ct_files.at_hand(two, name="late"):
            return first() is None

    with ThreadPoolExecutor(1) as other:
        with ct_files.at_hand(one, name="portal") as volume:
            first = weakref.ref(volume.hu)
            waits = other.submit(second)
            with pytest.raises(TimeoutError):
                waits.result(timeout=0.2)
            del volume
        assert waits.result(timeout=60)
    with ct_files.at_hand(two, name="late") as late:
        pass
    with ct_files.at_hand(two, name="late") as again:
        assert again is late


def test_a_scan_that_was_lost_or_damaged_in_the_store_is_not_read(store: FileStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        ct_files.image("a" * 64, name="portal")
    sha256, _ = store.put(io.BytesIO(b"a scan"))
    (tmp_path / "files" / sha256[:2] / sha256).write_bytes(b"a scar")
    with pytest.raises(DamagedFile):
        ct_files.image(sha256, name="portal")


def test_labels_that_find_the_disk_full_say_what_to_do(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ct_files, "write_labels", full)
    volume, labels = body([RIGHT, LEFT])
    with pytest.raises(StorageFull, match=r"disk of the server is full\. Ask your administrator"):
        ct_files.put_labels(labels, volume)
    assert list(store.names()) == []
