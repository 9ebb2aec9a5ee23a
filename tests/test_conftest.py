"""The rules of `conftest.py`, tried on a project of their own in a process of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def outcome_of(tmp_path: Path):
    """Runs one test in a project without shared data and without programs; returns pytest's output."""
    project = tmp_path / "project"
    (project / "tests").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "conftest.py", project / "tests")
    shutil.copy(ROOT / "pyproject.toml", project)

    def run(source: str, *arguments: str, require: str = "") -> str:
        (project / "tests" / "test_example.py").write_text("import pytest\n" + source)
        environment = {**os.environ, "RENAL_REQUIRE": require, "RENAL_CHROMIUM": "/nowhere/chromium"}
        command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=120
        ).stdout

    return run


def test_a_need_that_is_absent_skips_the_test_and_says_why(outcome_of) -> None:
    output = outcome_of("@pytest.mark.browser\ndef test_page(): ...\ndef test_pictures(shared_data): ...\n")
    assert "2 skipped" in output
    assert "no Chromium found" in output
    assert "the real pictures are not on this machine" in output


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_required_need_that_is_absent_fails_the_test_however_many_processes_run(outcome_of, processes: str) -> None:
    source = "@pytest.mark.browser\ndef test_page(): ...\ndef test_pictures(shared_data): ...\n"
    output = outcome_of(source, "-n", processes, require="browser, shared_data")
    assert "2 errors" in output
    assert "RENAL_REQUIRE asks for browser, but no Chromium found" in output


def test_long_tests_run_only_when_asked_for(outcome_of) -> None:
    source = "@pytest.mark.long\ndef test_training(): ...\ndef test_quick(): ...\n"
    assert "1 passed, 1 skipped" in outcome_of(source)
    assert "1 passed, 1 deselected" in outcome_of(source, "-m", "long")


def test_a_fixture_brings_its_marker_so_that_tests_can_be_chosen_by_it(outcome_of) -> None:
    source = "def test_pictures(shared_data): ...\ndef test_plain(): ...\n"
    assert "1 skipped, 1 deselected" in outcome_of(source, "-m", "shared_data")


@pytest.mark.parametrize("_attempt", [1, 2])
def test_each_test_gets_an_empty_database(database_url: str, _attempt: int) -> None:
    engine = sqlalchemy.create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE specimens (id INTEGER)"))
    engine.dispose()
