"""The source of the running version, which the AGPL gives to everyone who uses it over a network."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

import renalcore
from tests.running_app import RunningApp

ROOT = Path(__file__).resolve().parents[2]


def test_a_stranger_gets_every_source_file_of_the_running_version(web_app: RunningApp) -> None:
    answer = web_app.client().get("/source.tar.gz")
    assert answer.status_code == 200
    top = f"renalcore-{renalcore.__version__}"
    assert f'filename="{top}-source.tar.gz"' in answer.headers["content-disposition"]
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        names = set(archive.getnames())
        app = archive.extractfile(f"{top}/app.py")
        assert app is not None
        assert app.read() == (ROOT / "app.py").read_bytes()
    assert not [name for name in names if ".." in name or not name.startswith(f"{top}/")]
    assert not [name for name in names if name.endswith((".safetensors", ".db", ".log", "secrets.toml"))]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: nothing tells which files belong to the source")
    wanted = {f"{top}/{name}" for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    assert {name for name in wanted - names if not name.endswith(".safetensors")} == set()


def test_the_sign_in_page_leads_to_the_source(web_app: RunningApp) -> None:
    assert '<a href="/source.tar.gz">Source code</a> (AGPL-3.0)' in web_app.client().get("/login").text
