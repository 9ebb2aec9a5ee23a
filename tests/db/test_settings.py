from __future__ import annotations

from pathlib import Path

import pytest

from db.settings import Settings
from renalcore.errors import InputError


def test_an_empty_environment_is_an_embedded_installation() -> None:
    settings = Settings.from_env({})
    folder = Path("data").resolve()
    assert settings == Settings(
        data_folder=folder,
        database_url=f"sqlite:///{folder}/renalcore.db",
        files_url=f"file://{folder}/files",
        worker="embedded",
        public_url="http://localhost:8501",
        session_hours=12,
        idle_minutes=60,
        device="auto",
    )


def test_the_data_folder_moves_database_and_files(tmp_path: Path) -> None:
    settings = Settings.from_env({"RENAL_DATA": str(tmp_path)})
    assert settings.database_url == f"sqlite:///{tmp_path}/renalcore.db"
    assert settings.files_url == f"file://{tmp_path}/files"


def test_cookies_are_secure_where_the_address_is() -> None:
    assert not Settings.from_env({}).secure_cookies
    secure = Settings.from_env({"RENAL_PUBLIC_URL": "https://lab.example/"})
    assert (secure.secure_cookies, secure.public_url) == (True, "https://lab.example")


@pytest.mark.parametrize("files", ["here/pictures", "file://here/pictures"])
def test_another_process_may_be_started_in_another_folder(
    files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = {"RENAL_DATA": "here", "DATABASE_URL": "sqlite:///here/renal core.db", "RENAL_FILES": files}
    given = Settings.from_env(here).absolute()
    assert given == {
        "RENAL_DATA": f"{tmp_path}/here",
        "DATABASE_URL": f"sqlite:///{tmp_path}/here/renal core.db",
        "RENAL_FILES": f"file://{tmp_path}/here/pictures",
    }
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert Settings.from_env(given).absolute() == given
    far = {"DATABASE_URL": "postgresql+psycopg://renal:secret@db/renal", "RENAL_FILES": "s3://bucket/renal"}
    assert far.items() <= Settings.from_env(far).absolute().items()


def test_the_app_hands_out_its_source_unless_another_address_is_named() -> None:
    assert Settings.from_env({}).source_url == "/source.tar.gz"
    assert Settings.from_env({"RENAL_SOURCE_URL": "https://lab.example/src"}).source_url == "https://lab.example/src"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RENAL_WORKER", "elsewhere"),
        ("RENAL_DEVICE", "tpu"),
        ("RENAL_PUBLIC_URL", "lab.example"),
        ("RENAL_SOURCE_URL", "javascript:alert(1)"),
        ("RENAL_SESSION_HOURS", "0"),
        ("RENAL_IDLE_MINUTES", "soon"),
        ("RENAL_MAX_SLIDE_GB", "nan"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(InputError, match=name):
        Settings.from_env({name: value})
