"""Who may import whom, and which files let a heavy library in: read from the source, so that nothing has to run.

    app -> pages -> db -> renalcore          worker -> db -> renalcore

`make check` runs this file beside ruff and mypy.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

OURS = {"app", "pages", "worker", "db", "renalcore"}
MAY_IMPORT = {
    "app": {"pages", "db", "renalcore"},
    "pages": {"pages", "db", "renalcore"},
    "worker": {"db", "renalcore"},
    "db": {"db", "renalcore"},
    "renalcore": {"renalcore"},
}
NEVER = {
    "worker": {"streamlit"},
    "db": {"streamlit", "torch", "torchvision"},
    "renalcore": {"streamlit", "sqlalchemy", "alembic", "dbos", "requests", "httpx"},
}
ROOT_ENTRIES = {
    "app.py", "worker.py", "pages", "renalcore", "db", "tests",
    "requirements.txt", "Dockerfile", "compose.yaml", "Makefile", "pyproject.toml", "README.md", "LICENSE",
    ".ci", ".streamlit", ".gitignore",
}  # fmt: skip

# Heavy libraries: loading one costs seconds and hundreds of megabytes. First the files that may import it when they
# are imported themselves (rooms that are nothing without it, themselves imported late), then those that may import it
# inside a function. A file not named here may not name the library at all.
HEAVY = {
    "torch", "torchvision", "ultralytics", "sahi", "openvino", "nncf", "monai", "segmentation_models_pytorch",
    "openslide", "tifffile", "optuna", "pydicom", "nibabel", "dicomanonymizer", "skimage",
    "fast_simplification", "highdicom", "tiatoolbox",
}  # fmt: skip
AT_THE_TOP: dict[str, set[str]] = {
    "renalcore/ct/data.py": {"torch"},
    "renalcore/ct/decoding.py": {"torch"},
    "renalcore/ct/items.py": {"torch"},
    "renalcore/ct/losses.py": {"torch"},
    "renalcore/ct/networks.py": {"torch", "monai"},
    "renalcore/ct/train.py": {"torch"},
    "renalcore/histology/decoding.py": {"torch"},
    "renalcore/histology/deeplab.py": {"torch", "segmentation_models_pytorch"},
    "renalcore/histology/double_unet.py": {"torch", "segmentation_models_pytorch"},
    "renalcore/histology/losses.py": {"torch"},
    "renalcore/histology/networks.py": {"torch", "segmentation_models_pytorch"},
    "renalcore/histology/data.py": {"torch"},
    "renalcore/histology/peer.py": {"tiatoolbox", "torch"},
    "renalcore/histology/train.py": {"torch"},
    "renalcore/histology/pretrain.py": {"torch"},
    "renalcore/io/deidentify.py": {"pydicom"},
    "renalcore/io/slide/dicom.py": {"pydicom"},
    "renalcore/io/volume/codestreams.py": {"pydicom"},
    "renalcore/io/volume/decoding.py": {"pydicom"},
    "renalcore/io/volume/headers.py": {"pydicom"},
    "renalcore/io/volume/identity.py": {"pydicom"},
    "renalcore/runs/training.py": {"torch"},
    "renalcore/sediment/networks.py": {"torch", "ultralytics"},
    "renalcore/sediment/losses.py": {"torch", "ultralytics"},
    "renalcore/sediment/data.py": {"torch", "ultralytics"},
    "renalcore/sediment/pretrain.py": {"torch", "ultralytics"},
    "renalcore/sediment/train.py": {"torch", "ultralytics"},
    "renalcore/sediment/decoding.py": {"torch", "ultralytics"},
    "renalcore/sediment/explain.py": {"torch"},
    "renalcore/sediment/retinanet.py": {"torch", "torchvision"},
    "renalcore/sediment/retinanet_train.py": {"torch"},
    "renalcore/sediment/slicing.py": {"sahi"},
}
INSIDE_FUNCTIONS: dict[str, set[str]] = {
    "renalcore/ct/benchmark.py": {"nibabel", "torch"},
    "renalcore/ct/nifti.py": {"nibabel"},
    "renalcore/engine/backends.py": {"torch", "openvino", "nncf"},
    "renalcore/engine/devices.py": {"torch"},
    "renalcore/export/dicom_seg.py": {"highdicom", "pydicom"},
    "renalcore/export/meshes.py": {"fast_simplification", "skimage"},
    "renalcore/histology/benchmark.py": {"torch"},
    "renalcore/histology/pyramid.py": {"tifffile"},
    "renalcore/io/deidentify.py": {"nibabel", "dicomanonymizer"},
    "renalcore/io/slide/blanking.py": {"tifffile"},
    "renalcore/io/slide/tiff.py": {"tifffile"},
    "renalcore/io/slide/vendors.py": {"openslide"},
    "renalcore/io/volume/nifti.py": {"nibabel"},
    "renalcore/io/volume/opening.py": {"pydicom"},
    "renalcore/metrics/surfaces.py": {"skimage"},
    "renalcore/sediment/benchmark.py": {"torch", "sahi"},
    "renalcore/sediment/pretrain.py": {"monai"},
    "renalcore/sediment/search.py": {"optuna"},
}


@dataclass(frozen=True)
class Import:
    """One imported module, by the file that imports it; `member` is what `from module import member` names."""

    file: str
    line: int
    module: str
    at_the_top: bool
    member: str = ""

    @property
    def package(self) -> str:
        return self.module.split(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def _walk(node: ast.AST, *, at_the_top: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        yield child, at_the_top
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue  # names for the type checker; nothing is loaded
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _walk(child, at_the_top=at_the_top and not inside)


def imports_of(path: Path, file: str) -> list[Import]:
    """Every import of one file that can happen when it runs; `from . import x` is told as the package it means."""
    found: list[Import] = []
    folder = file.split("/")[:-1]
    for node, at_the_top in _walk(ast.parse(path.read_text(encoding="utf-8"), file), at_the_top=True):
        if isinstance(node, ast.Import):
            found += [Import(file, node.lineno, alias.name, at_the_top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            module = ".".join([*base, node.module or ""]).strip(".")
            found += [Import(file, node.lineno, module, at_the_top, alias.name) for alias in node.names]
    return found


def _sources() -> list[Path]:
    folders = [path for part in ("pages", "db", "renalcore") for path in sorted((ROOT / part).rglob("*.py"))]
    return [path for path in (ROOT / "app.py", ROOT / "worker.py") if path.exists()] + folders


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    """All imports of the project's own code."""
    return [found for path in _sources() for found in imports_of(path, path.relative_to(ROOT).as_posix())]


def _part(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def test_imports_run_one_way(imports: list[Import]) -> None:
    wrong = [i for i in imports if i.package in OURS and i.package not in MAY_IMPORT[_part(i.file)]]
    assert [str(i) for i in wrong] == []


def test_the_model_package_the_record_and_the_worker_stay_free_of_what_is_not_theirs(imports: list[Import]) -> None:
    wrong = [i for i in imports if i.package in NEVER.get(_part(i.file), ())]
    assert [str(i) for i in wrong] == []


def test_heavy_libraries_are_loaded_at_the_top_of_few_files_only(imports: list[Import]) -> None:
    wrong = [i for i in imports if i.at_the_top and i.package in HEAVY - AT_THE_TOP.get(i.file, set())]
    assert [str(i) for i in wrong] == []


def test_heavy_libraries_enter_through_the_listed_files_only(imports: list[Import]) -> None:
    allowed = {
        file: AT_THE_TOP.get(file, set()) | INSIDE_FUNCTIONS.get(file, set()) for file in AT_THE_TOP | INSIDE_FUNCTIONS
    }
    wrong = [i for i in imports if i.package in HEAVY - allowed.get(i.file, set())]
    assert [str(i) for i in wrong] == []


def _loaded_by(file: str, imports: list[Import]) -> set[str]:
    """The project's files that importing one of them loads, itself among them."""
    files = {path.relative_to(ROOT).as_posix() for path in _sources()}
    loaded: set[str] = set()
    waiting = [file]
    while waiting:
        file = waiting.pop()
        if file in loaded:
            continue
        loaded.add(file)
        for found in imports:
            if found.file == file and found.at_the_top:
                parts = f"{found.module}.{found.member}".strip(".").split(".")
                paths = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
                waiting += [name for path in paths for name in (f"{path}.py", f"{path}/__init__.py") if name in files]
    return loaded


def test_the_app_the_record_the_worker_and_the_command_line_start_without_a_heavy_library(
    imports: list[Import],
) -> None:
    # Not even through a room of ours that has one at its top.
    light = [path.relative_to(ROOT).as_posix() for path in _sources()]
    light = [file for file in light if not file.startswith("renalcore/")]
    for file in (*light, "renalcore/__main__.py", "renalcore/cli.py", "renalcore/models.py", "renalcore/io/image.py"):
        through = _loaded_by(file, imports)
        heavy = [i for i in imports if i.file in through and i.at_the_top and i.package in HEAVY]
        assert [f"{file} starts what {i}" for i in heavy] == []


def test_the_lists_of_heavy_files_name_no_file_that_stopped_importing_them(imports: list[Import]) -> None:
    top = {(i.file, i.package) for i in imports if i.at_the_top}
    inside = {(i.file, i.package) for i in imports if not i.at_the_top}
    stale = [(f, p) for f, libraries in AT_THE_TOP.items() for p in libraries if (f, p) not in top]
    stale += [(f, p) for f, libraries in INSIDE_FUNCTIONS.items() for p in libraries if (f, p) not in inside]
    assert stale == []


def test_no_page_lies_directly_in_pages_where_streamlit_would_serve_it_unguarded() -> None:
    assert [path.name for path in (ROOT / "pages").glob("*.py") if path.name != "__init__.py"] == []


def test_every_folder_of_code_is_a_package() -> None:
    folders = {path.parent for path in _sources() if path.parent != ROOT}
    assert [str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_the_root_holds_only_what_the_design_names() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert {line.split("/")[0] for line in listed.splitlines()} - ROOT_ENTRIES == set()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch", ("torch", True)),
        ("import torch.nn as nn", ("torch.nn", True)),
        ("def late():\n    from sahi import predict", ("sahi", False)),
        ("try:\n    import openvino\nexcept ImportError:\n    raise", ("openvino", True)),
        ("class Room:\n    import monai", ("monai", True)),
        ("from . import specimens", ("db", True)),
        ("from ..sediment import networks", ("sediment", True)),
    ],
)
def test_an_import_is_seen_wherever_it_stands(tmp_path: Path, source: str, expected: tuple[str, bool]) -> None:
    path = tmp_path / "room.py"
    path.write_text(source)
    assert [(i.module, i.at_the_top) for i in imports_of(path, "db/room.py")] == [expected]


def test_an_import_for_the_type_checker_alone_is_not_an_import(tmp_path: Path) -> None:
    path = tmp_path / "room.py"
    path.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch")
    assert [i.module for i in imports_of(path, "db/room.py")] == ["typing"]


def test_starting_the_worker_or_a_command_line_really_loads_no_heavy_library() -> None:
    program = f"import sys, worker, db.__main__, renalcore.cli; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
