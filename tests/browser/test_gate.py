"""A field that is out of focus is withheld from the counts, and a reviewer counts it all the same."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from tests.browser.conftest import drawn, expect, shoot, sign_in
from tests.browser.records import analysed, wait_until
from tests.running_app import RunningApp

pytestmark = pytest.mark.browser

BLURRED = '[{"code": "out_of_focus", "message": "The picture looks out of focus."}]'


def test_a_reviewer_counts_a_withheld_field_and_withholds_it_again(page: Any, web_app: RunningApp) -> None:
    reviewer = web_app.person("reviewer", "Rita Reviewer")
    bench = analysed(web_app, reviewer)
    with web_app.database() as session:
        update = sa.text("UPDATE specimen_fields SET flags = :flags WHERE id = :id")
        session.execute(update, {"flags": BLURRED, "id": bench.field_ids[1]})
    sign_in(page, web_app, reviewer, f"/review?specimen={bench.specimen_id}&field={bench.field_ids[1]}")
    wait_until(page, {"WBC": 4, "RBC": 2})
    expect(page.get_by_text("field 2 withheld: out of focus")).to_be_visible()
    drawn(page)
    shoot(page, "withheld")
    page.get_by_role("button", name="Count it...").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("sharp enough for red cells")
    shoot(page, "count-withheld")
    dialog.get_by_role("button", name="Count it", exact=True).click()
    wait_until(page, {"WBC": 6, "RBC": 3})
    expect(page.get_by_text("field 2 counted by a reviewer, though out of focus")).to_be_visible()
    drawn(page)
    page.get_by_text("History").click()
    expect(page.get_by_text("field 2.png counted, though out of focus: sharp enough for red cells")).to_be_visible()
    drawn(page)
    shoot(page, "counted-though")
    page.get_by_role("button", name="Withhold it").click()
    wait_until(page, {"WBC": 4, "RBC": 2})

    with web_app.database() as session:
        session.execute(
            sa.text("UPDATE specimen_fields SET flags = :flags WHERE specimen_id = :id"),
            {"flags": BLURRED, "id": bench.specimen_id},
        )
    page.reload()
    expect(page.get_by_text("No field of this specimen can be counted.")).to_be_visible()
    drawn(page)
    shoot(page, "nothing-counted")
    page.get_by_role("link", name=bench.patient).click()
    expect(page.get_by_text(f"{bench.accession}: field 1 withheld: out of focus; field 2")).to_be_visible()
    drawn(page)
    shoot(page, "patient-withheld")
