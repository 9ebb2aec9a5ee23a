"""`python -m db`: what a laboratory's IT does with the database from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlencode

from db import accounts, audit
from db import backup as backups
from db.engine import session_scope, upgrade
from db.files import store
from db.settings import Settings
from renalcore.errors import Conflict, RenalError

_EPILOG = (
    "The environment names the installation: DATABASE_URL, RENAL_DATA, RENAL_FILES, RENAL_PUBLIC_URL. "
    "Exit status: 0 done, 1 refused or failed (the reason is on stderr), 2 wrong arguments."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = options.run
    try:
        run(options)
    except RenalError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _upgrade(_options: argparse.Namespace) -> None:
    upgrade()
    _say("The database is up to date.")


def _backup(options: argparse.Namespace) -> None:
    settings = Settings.from_env()
    made = backups.backup(options.target, database_url=settings.database_url, store=store())
    _say(f"Backed up to {options.target}: {_told(made)}")


def _restore(options: argparse.Namespace) -> None:
    settings = Settings.from_env()
    made = backups.restore(options.source, database_url=settings.database_url, store=store(), force=options.force)
    upgrade()
    _say(f"Restored {options.source}: {_told(made)}")


def _verify_audit(options: argparse.Namespace) -> None:
    with session_scope(read_only=True) as session:
        events = audit.verify(session, noted=options.noted)
        end = audit.head(session).hash
    _say(f"The audit trail is whole: {events} events. It ends in {end}")


def _create_admin(options: argparse.Namespace) -> None:
    upgrade()
    with session_scope() as session:
        user = accounts.by_username(session, options.username)
        if user is None:
            token = accounts.invite(
                session, username=options.username, full_name=options.full_name, role="admin", by=None
            )
        elif user.role == "admin" and options.renew:
            accounts.activate(session, user, by=None)
            token = accounts.reset_password(session, user, by=None)
        else:
            raise Conflict(
                f"There is an account {user.username} already. Choose another name"
                + (", or add --renew for a new password." if user.role == "admin" else ".")
            )
    sys.stderr.write(f"Open this link within {accounts.LINK_LASTS.days} days to choose the password:\n")
    _say(f"{Settings.from_env().public_url}/welcome?{urlencode({'token': token})}")


def _told(made: backups.Summary) -> str:
    return (
        f"{made.files} files, {made.size_bytes / 1e6:.1f} MB, {made.audit_events} audit events.\n"
        f"The audit trail ends in {made.audit_hash}"
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m db", description="RenalCore's database.", epilog=_EPILOG)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None], what: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=what, description=what, epilog=_EPILOG)
        added.set_defaults(run=run)
        return added

    command("upgrade", _upgrade, "Bring the database to the schema of this version; an empty one is set up.")

    added = command("backup", _backup, "Copy database and files into one folder or archive, while everybody works.")
    added.add_argument("target", type=Path, help="a new folder, or a new file that ends in .tar.gz")

    added = command("restore", _restore, "Put a backup back, checked part by part. Stop the app and workers first.")
    added.add_argument("source", type=Path, help="the folder or .tar.gz that backup wrote")
    added.add_argument("--force", action="store_true", help="replace what is in the database; files are only added")

    added = command("verify-audit", _verify_audit, "Prove that the audit trail is as it was recorded.")
    added.add_argument("--noted", metavar="HASH", help="an end of the trail noted earlier, which must be part of it")

    added = command("create-admin", _create_admin, "Make an administrator; prints a one-time link for the password.")
    added.add_argument("--username", default=accounts.FIRST_ADMIN, help="user name (default: %(default)s)")
    added.add_argument("--full-name", default="Administrator", help="name on reports (default: %(default)s)")
    added.add_argument("--renew", action="store_true", help="for an administrator who lost the password")
    return parser


if __name__ == "__main__":
    sys.exit(main())
