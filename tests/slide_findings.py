"""Glomeruli found on the slides of the tests, as a finished search leaves them in the database."""

from __future__ import annotations

import math
from collections.abc import Sequence

from db import analyses, slides, specimens
from db.models import GlomerulusFinding, SlideResult
from tests.browser.records import user_of
from tests.running_app import Person, RunningApp


def disc(x_px: float, y_px: float, radius_px: float, points: int = 24) -> list[float]:
    """An outline as the database keeps it: `x1, y1, x2, y2, ...`."""
    turns = [2 * math.pi * step / points for step in range(points)]
    return [edge for turn in turns for edge in (x_px + radius_px * math.cos(turn), y_px + radius_px * math.sin(turn))]


def searched(
    app: RunningApp, by: Person, slide_id: int, found: Sequence[tuple[float, float, float, float]], **limits: object
) -> int:
    """A finished analysis that found discs `(x, y, radius, score)` on a slide; which of them count, `limits` says."""
    user = user_of(app, by)
    with app.database() as session:
        specimen = specimens.get(session, slides.get(session, slide_id).specimen_id)
        analysis = analyses.request(
            session, specimen, model_key="histology", weights_sha256="a" * 64, code_version="0.1.0",
            options={"limits": limits}, by=user,
        )  # fmt: skip
        analyses.start(session, analysis.id, device="cpu", worker="test")
        result = SlideResult(
            analysis_id=analysis.id, slide_id=slide_id, seconds=1.0, worker="test", tissue_px=1e6, downsample=2.0
        )
        session.add(result)
        session.flush()
        for x_px, y_px, radius_px, score in found:
            finding = GlomerulusFinding(
                slide_result_id=result.id, analysis_id=analysis.id, slide_id=slide_id, score=score,
                outline=disc(x_px, y_px, radius_px), area_px=math.pi * radius_px**2, touches_edge=False,
            )  # fmt: skip
            session.add(finding)
        analyses.finish(session, analysis.id)
        return analysis.id
