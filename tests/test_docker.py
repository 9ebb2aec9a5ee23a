"""No Docker engine runs where the tests run: the image is put together by hand, as its Dockerfile says, and used.

`data/compose_spec.json` is the Compose specification's JSON schema as the Python package docker-compose 1.29.2
carries it (Apache-2.0, `compose/config/compose_spec.json`), unchanged.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Step:
    """One instruction of the Dockerfile; `stage` counts its FROM lines."""

    stage: int
    verb: str
    rest: str


def _steps() -> list[Step]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    steps: list[Step] = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            verb, rest = line.split(maxsplit=1)
            steps.append(Step(sum(s.verb == "FROM" for s in steps) + (verb == "FROM"), verb, rest.strip()))
    return steps


def _command_of(step: Step) -> list[str]:
    """The words of a CMD in its exec form."""
    words: list[str] = json.loads(step.rest[step.rest.index("[") :])
    return words


def _copied_from_the_project() -> list[tuple[list[str], str]]:
    copies = [shlex.split(step.rest) for step in _steps() if step.verb == "COPY" and "--from=" not in step.rest]
    return [(words[:-1], words[-1]) for words in copies]


def _compose() -> dict[str, Any]:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return compose


def _makefile() -> str:
    return (
        (ROOT / "Makefile")
        .read_text()
        .replace("$(BIN)/", "")
        .replace("$(ADDRESS)", "0.0.0.0")
        .replace("$(PORT)", "8501")
    )


def test_the_image_is_built_in_two_stages_and_does_not_run_as_root() -> None:
    steps = _steps()
    assert steps[-1].stage == 2
    last_stage = [step for step in steps if step.stage == 2]
    user = next(step.rest for step in last_stage if step.verb == "USER")
    assert user not in ("root", "0")
    assert any(f"{user}" in step.rest and step.rest.startswith("useradd") for step in last_stage if step.verb == "RUN")


def test_every_file_the_image_copies_is_in_the_project() -> None:
    missing = [name for names, _ in _copied_from_the_project() for name in names if not (ROOT / name).exists()]
    assert missing == []


def test_the_image_holds_every_module_that_is_installed() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    modules = re.search(r"py-modules = \[(.*)\]", project)
    packages = re.search(r"include = \[(.*)\]", project)
    assert modules
    assert packages
    names = {f"{name}.py" for name in re.findall(r'"(\w+)"', modules[1])}
    names |= {f"{name}/" for name in re.findall(r'"(\w+)\*?"', packages[1])}
    assert names <= {name for copied, _ in _copied_from_the_project() for name in copied}


def test_image_and_compose_file_use_the_commands_of_the_makefile() -> None:
    makefile, serve = _makefile(), next(step for step in reversed(_steps()) if step.verb == "CMD")
    for words in (_compose()["services"]["setup"]["command"], _command_of(serve)):
        assert " ".join(words) in makefile
    installs = [step.rest for step in _steps() if step.verb == "RUN" and "pip install" in step.rest]
    assert "--requirement requirements.txt" in installs[0]
    assert "--editable ." in installs[1]
    assert "--editable ." in makefile


def test_the_compose_file_follows_the_compose_specification() -> None:
    schema = json.loads((ROOT / "tests" / "data" / "compose_spec.json").read_text())
    errors = jsonschema.Draft7Validator(schema).iter_errors(_compose())
    assert [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in errors] == []


def test_the_compose_file_names_only_services_and_volumes_that_it_has() -> None:
    compose = _compose()
    services, volumes = compose["services"], compose["volumes"]
    for name, service in services.items():
        for other, condition in service.get("depends_on", {}).items():
            assert other in services, f"{name} waits for {other}"
            if condition["condition"] == "service_healthy":
                assert "test" in services[other]["healthcheck"], f"{name} waits for the health of {other}"
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in volumes


def test_web_and_worker_are_the_same_image_and_the_worker_can_be_scaled() -> None:
    services = _compose()["services"]
    assert services["web"]["image"] == services["worker"]["image"]
    assert services["web"]["environment"] == services["worker"]["environment"]
    assert services["web"]["environment"]["RENAL_WORKER"] == "external"
    assert not {"container_name", "ports", "hostname"} & set(services["worker"]), "each would allow one copy only"


def test_no_password_is_written_down() -> None:
    for text in ((ROOT / "compose.yaml").read_text(), (ROOT / "Dockerfile").read_text()):
        # A password is always a reference to .env that refuses to be empty.
        for found in re.findall(r"PASSWORD\b.*|://\w+:[^@]*@", text):
            assert "${POSTGRES_PASSWORD:?" in found or found.startswith(("PASSWORD=%s", "PASSWORD into", "PASSWORD:?"))


def _put_together(folder: Path) -> None:
    """What the image's /app holds: the COPY lines, carried out on the files that git knows."""
    known = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for names, target in _copied_from_the_project():
        for name in names:
            destination = folder / target / (name if not name.endswith("/") else "")
            for file in filter(None, known):
                if file == name or (name.endswith("/") and file.startswith(name)):
                    copy = destination if file == name else folder / target / file[len(name) :]
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / file, copy)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.skipif(shutil.which("git") is None, reason="git says which files belong to the project")
def test_the_files_of_the_image_are_enough_to_set_up_serve_and_pass_the_health_check(tmp_path: Path) -> None:
    app, port = tmp_path / "app", _free_port()
    _put_together(app)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(app),  # before an editable install of the project itself
        "RENAL_DATA": str(tmp_path / "data"),
        "DATABASE_URL": f"sqlite:///{tmp_path / 'data' / 'renalcore.db'}",
        "RENAL_WORKER": "external",
    }
    (tmp_path / "data").mkdir()

    def run(words: list[str]) -> str:
        done = subprocess.run(words, cwd=app, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}"
        return done.stdout + done.stderr

    compose, steps = _compose(), _steps()
    run(compose["services"]["setup"]["command"])
    assert "--concurrency" in run([*compose["services"]["worker"]["command"], "--help"])

    serve = _command_of(next(step for step in reversed(steps) if step.verb == "CMD"))
    health = _command_of(next(step for step in steps if step.verb == "HEALTHCHECK"))
    with (tmp_path / "web.log").open("wb") as log:
        web = subprocess.Popen(
            [word.replace("8501", str(port)).replace("0.0.0.0", "127.0.0.1") for word in serve],
            cwd=app, env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            _until_it_answers(f"http://127.0.0.1:{port}/health", web)
            run([word.replace("8501", str(port)) for word in health])
        finally:
            web.terminate()
            web.wait(timeout=30)
    assert "/welcome?token=" in (tmp_path / "web.log").read_text(), "the first admin's one-time link"


def _until_it_answers(url: str, web: subprocess.Popen[bytes], *, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert web.poll() is None, "the web app ended by itself"
            assert time.monotonic() < until, f"{url} did not answer in {seconds} s"
            time.sleep(0.3)
