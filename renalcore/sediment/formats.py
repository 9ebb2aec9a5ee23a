"""Which form the labels of a folder have, and what reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from renalcore.datasets.findings import Findings
from renalcore.datasets.pictures import PICTURE_SUFFIXES, files_under, key
from renalcore.errors import InputError
from renalcore.sediment.labels import coco, voc, yolo
from renalcore.sediment.labels.lists import description_of
from renalcore.sediment.labels.record import Format, Source

_Reader = Callable[[Path, tuple[Path, ...], Findings, bool], Source]
FORMATS: Final[Mapping[Format, _Reader]] = MappingProxyType(
    {Format.YOLO: yolo.read, Format.VOC: voc.read, Format.COCO: coco.read}
)


def format_of(folder: Path) -> Format:
    """The form of a folder's labels.

    Raises:
        InputError: There are several; with a manifest beside YOLO labels these are meant.
    """
    files = files_under(folder)
    pictures = {key(path.stem) for path in files if path.suffix.lower() in PICTURE_SUFFIXES}
    texts = [path for path in files if path.suffix.lower() == ".txt" and yolo.is_label(path)]
    forms = set()
    if any(key(path.stem) in pictures or path.parent.name.lower() == "labels" for path in texts):
        forms.add(Format.YOLO)
    elif description_of(folder) and not pictures:
        forms.add(Format.YOLO)  # pictures elsewhere
    if any(path.suffix.lower() == ".xml" and voc.is_label(path) for path in files):
        forms.add(Format.VOC)
    if any(path.suffix.lower() == ".json" and coco.is_label(path) for path in files):
        forms.add(Format.COCO)
    if Format.YOLO in forms and (folder / "manifest.csv").is_file():
        return Format.YOLO
    if len(forms) > 1:
        raise InputError(
            f"{folder} holds labels in several forms ({', '.join(sorted(forms))}); say which to read with --format"
        )
    return forms.pop() if forms else Format.UNLABELLED
