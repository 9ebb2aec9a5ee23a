"""The list of slides: their states, their progress in tiles, and how they are found."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from db import analyses, slide_list
from db.models import SlideBlock, User
from db.slide_list import SLIDE_STATES, SlideState
from renalcore.errors import UnknownName
from tests.db.records import MODEL, Found, a_specimen_of_slides, searched


def test_slides_are_listed_by_the_state_of_their_specimen(session: Session, technologist: User) -> None:
    a_specimen_of_slides(session, technologist, ["A1", "A2"], accession="K-1")
    asked = {
        accession: analyses.request(
            session,
            a_specimen_of_slides(session, technologist, [f"{accession} A1"], accession=accession),
            **MODEL,
            options={},
            by=technologist,
        )
        for accession in ("K-2", "K-3", "K-4")
    }
    for accession in ("K-3", "K-4"):
        analyses.start(session, asked[accession].id, device="cpu", worker="w1")
    slide = asked["K-3"].specimen.slides[0]
    same = {"analysis_id": asked["K-3"].id, "slide_id": slide.id, "plan": "{}"}
    session.add(SlideBlock(**same, position=0, tiles=12, finished_at=slide.specimen.created_at))
    session.add(SlideBlock(**same, position=1, tiles=8))
    analyses.fail(session, asked["K-4"].id, "The slide cannot be read.")
    searched(session, technologist, {"K-5 A1": [Found(100, 100), Found(300, 100)]}, accession="K-5")

    def listed(state: SlideState) -> list[str]:
        page = slide_list.page(session, state=state)
        assert page.total == len(page.rows) == slide_list.state_counts(session)[state]
        return [f"{row.accession} {row.state} {row.done}/{row.total} {row.message}".strip() for row in page.rows]

    assert {state: rows for state in SLIDE_STATES if (rows := listed(state))} == {
        "not_analysed": ["K-1 not_analysed 0/0"] * 2,
        "waiting": ["K-2 waiting 0/0"],
        "running": ["K-3 running 12/20"],
        "failed": ["K-4 failed 0/0 The slide cannot be read."],
        "needs_review": ["K-5 needs_review 0/0"],
    }
    assert [row.accession for row in slide_list.page(session).rows] == ["K-5", "K-4", "K-3", "K-2", "K-1", "K-1"]
    assert [row.glomeruli for row in slide_list.page(session).rows] == [2, None, None, None, None, None]
    assert [row.slide.name for row in slide_list.page(session, limit=2, offset=4).rows] == ["A1", "A2"]
    with pytest.raises(UnknownName, match="expected one of not_analysed, waiting"):
        slide_list.page(session, state="lost")
