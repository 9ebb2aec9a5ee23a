"""The settings of an installation, read from the environment in this one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from fsspec.core import strip_protocol
from sqlalchemy.engine import make_url

from renalcore.errors import InputError

WorkerPlace = Literal["embedded", "external"]
DeviceName = Literal["auto", "cpu", "openvino", "cuda", "openvino-int8"]

OWN_SOURCE = "/source.tar.gz"
"""Where the app itself hands out the source that runs."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How one installation is set up.

    Attributes:
        data_folder: Folder of an embedded installation: SQLite file and file store (`RENAL_DATA`).
        database_url: SQLAlchemy address of the database (`DATABASE_URL`).
        files_url: fsspec address of the file store (`RENAL_FILES`).
        worker: Whether the app starts a worker itself (`RENAL_WORKER`).
        public_url: Address under which browsers reach the app, without a final slash (`RENAL_PUBLIC_URL`).
        session_hours: Hours after which everyone signs in again (`RENAL_SESSION_HOURS`).
        idle_minutes: Minutes without any request after which one signs in again (`RENAL_IDLE_MINUTES`).
        device: Where models run (`RENAL_DEVICE`).
        max_slide_gb: Largest slide or CT study accepted, in gigabytes of 10^9 bytes (`RENAL_MAX_SLIDE_GB`).
        slides_folder: Folder from which slides can be taken, such as a scanner's (`RENAL_SLIDES`); None for none.
        source_url: Where users find the source of this version (`RENAL_SOURCE_URL`); by default the app hands it out.
    """

    data_folder: Path
    database_url: str
    files_url: str
    worker: WorkerPlace = "embedded"
    public_url: str = "http://localhost:8501"
    session_hours: float = 12.0  # one shift
    idle_minutes: float = 60.0
    device: DeviceName = "auto"
    max_slide_gb: float = 20.0  # a whole slide at 40x has 1 to 5
    slides_folder: Path | None = None
    source_url: str = OWN_SOURCE

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings that the environment names, defaults elsewhere.

        Args:
            environ: Variables to read instead of the process's own.

        Raises:
            InputError: A variable holds something that cannot be used; the message names it.
        """
        env = os.environ if environ is None else environ
        folder = Path(env.get("RENAL_DATA") or "data").resolve()
        worker = env.get("RENAL_WORKER") or "embedded"
        device = env.get("RENAL_DEVICE") or "auto"
        if worker not in get_args(WorkerPlace):
            raise InputError(f"RENAL_WORKER must be one of {', '.join(get_args(WorkerPlace))}, got {worker!r}.")
        if device not in get_args(DeviceName):
            raise InputError(f"RENAL_DEVICE must be one of {', '.join(get_args(DeviceName))}, got {device!r}.")
        public_url = (env.get("RENAL_PUBLIC_URL") or "http://localhost:8501").rstrip("/")
        source_url = env.get("RENAL_SOURCE_URL") or OWN_SOURCE
        for name, url in (("RENAL_PUBLIC_URL", public_url), ("RENAL_SOURCE_URL", source_url)):
            parts = urlsplit(url)
            if url != OWN_SOURCE and (parts.scheme not in ("http", "https") or not parts.netloc):
                raise InputError(f"{name} must be an address such as https://lab.example, got {url!r}.")
        return cls(
            data_folder=folder,
            database_url=env.get("DATABASE_URL") or f"sqlite:///{folder / 'renalcore.db'}",
            files_url=env.get("RENAL_FILES") or f"file://{folder / 'files'}",
            worker=worker,  # type: ignore[arg-type]  # checked above
            public_url=public_url,
            session_hours=_positive(env, "RENAL_SESSION_HOURS", 12.0),
            idle_minutes=_positive(env, "RENAL_IDLE_MINUTES", 60.0),
            device=device,  # type: ignore[arg-type]  # checked above
            max_slide_gb=_positive(env, "RENAL_MAX_SLIDE_GB", 20.0),
            slides_folder=Path(env["RENAL_SLIDES"]).resolve() if env.get("RENAL_SLIDES") else None,
            source_url=source_url,
        )

    def absolute(self) -> dict[str, str]:
        """The variables that may hold paths, with none left that depends on the folder a process was started in."""
        url = make_url(self.database_url)
        if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
            url = url.set(database=str(Path(url.database).resolve()))
        files_url = self.files_url
        if urlsplit(files_url).scheme in ("", "file", "local"):
            files_url = f"file://{strip_protocol(files_url)}"  # which makes it absolute
        return {
            "RENAL_DATA": str(self.data_folder),
            "DATABASE_URL": url.render_as_string(hide_password=False),
            "RENAL_FILES": files_url,
        }

    @property
    def secure_cookies(self) -> bool:
        """Whether browsers may send the session cookie over https only."""
        return self.public_url.startswith("https://")


def _positive(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):  # also refuses nan
        raise InputError(f"{name} must be a positive number, got {text!r}.")
    return value
