from __future__ import annotations

from sqlalchemy.orm import Session

from db import workers


def test_workers_are_loading_until_one_of_them_has_a_model(session: Session) -> None:
    assert not workers.are_loading(session), "nobody is at work"
    workers.beat(session, "w-1", host="a", pid=1)
    workers.beat(session, "w-2", host="b", pid=1)
    assert workers.are_loading(session)
    workers.beat(session, "w-2", host="b", pid=1, device="cpu")
    assert not workers.are_loading(session)


def test_a_worker_that_starts_again_under_its_name_has_yet_to_load_its_model(session: Session) -> None:
    workers.beat(session, "w-1", host="a", pid=1, device="cpu")
    workers.beat(session, "w-1", host="a", pid=2)
    assert workers.are_loading(session)
