"""The record of a search through slides: planned, stored block by block, joined, and complete."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from db import analyses, audit, queue, slide_searches, slides
from db.engine import session_scope
from db.models import Analysis, GlomerulusFinding, Slide, SlideBlock, SlideResult, Specimen, User
from renalcore.errors import Conflict, NotFound
from renalcore.histology.glomeruli import Glomeruli
from renalcore.histology.instances import join
from renalcore.histology.tiles import Block
from tests.db.records import MODEL, Register, a_specimen_of_slides
from tests.renalcore.histology.discs import model, slide

DISCS = ((300, 300, 100), (900, 370, 90), (400, 1500, 110))
WIDTH_PX, HEIGHT_PX = 1200, 2000


def specimen_of(session: Session, by: User, *names: str, um_per_px: float | None = 0.5) -> Specimen:
    return a_specimen_of_slides(
        session,
        by,
        names,
        accession=f"K-{'-'.join(names)}",
        um_per_px=um_per_px,
        width_px=WIDTH_PX,
        height_px=HEIGHT_PX,
    )


def asked(session: Session, specimen: Specimen, by: User) -> Analysis:
    analysis = analyses.request(session, specimen, **MODEL, options={}, by=by)
    assert analyses.start(session, analysis.id, device="cpu", worker="w1")
    return analysis


def blocks_at(um_per_px: float | None) -> tuple[Block, ...]:
    return model().blocks(slide(WIDTH_PX, HEIGHT_PX, DISCS, um_per_px=um_per_px), block_tiles=3)


def search(session: Session, analysis: Analysis, of: Slide, *, most: int = 99) -> int:
    picture, stored = slide(WIDTH_PX, HEIGHT_PX, DISCS, um_per_px=of.um_per_px), 0
    for row in slide_searches.pending_blocks(session, analysis.id, of.id)[:most]:
        result = model().search(picture, Block.from_json(row.plan))
        stored += slide_searches.store_block(session, analysis.id, of.id, row.position, result, seconds=0.5)
    return stored


def joined(session: Session, analysis: Analysis, of: Slide) -> Glomeruli:
    return join(slide_searches.results(session, analysis.id, of.id))


def test_slides_are_searched_block_by_block_until_the_specimen_needs_review(
    session: Session, technologist: User
) -> None:
    specimen = specimen_of(session, technologist, "A1", "A2")
    first, second = specimen.slides
    analysis = asked(session, specimen, technologist)
    assert analyses.progress(session, analysis.id) == (0, 0), "nothing is planned yet"
    blocks = blocks_at(0.5)
    tiles = [len(block.tiles) for block in blocks]
    assert len(blocks) > 2
    for each in (first, second):
        assert slide_searches.plan(session, analysis.id, each.id, blocks)
    assert analyses.progress(session, analysis.id) == (0, 2 * sum(tiles))

    assert search(session, analysis, first, most=1) == 1
    assert analyses.progress(session, analysis.id) == (tiles[0], 2 * sum(tiles))
    with pytest.raises(Conflict, match="a block lacks its result"):
        joined(session, analysis, first)
    assert search(session, analysis, first) == len(blocks) - 1
    found = joined(session, analysis, first)
    assert slide_searches.finish_slide(session, analysis.id, first.id, found, worker="w1")
    with pytest.raises(Conflict, match="1 of 2 slides lack a result"):
        analyses.finish(session, analysis.id)
    assert slide_searches.pending_slides(session, analysis.id) == [second]

    search(session, analysis, second)
    slide_searches.finish_slide(session, analysis.id, second.id, joined(session, analysis, second), worker="w2")
    assert analyses.finish(session, analysis.id)
    assert (specimen.state, analyses.lacking(session, analysis.id)) == ("needs_review", (0, 2))
    assert analyses.progress(session, analysis.id) == (2 * sum(tiles), 2 * sum(tiles))
    assert audit.events(session, action="analysis.done")[0].new["slides"] == 2

    results = session.scalars(select(SlideResult).order_by(SlideResult.id)).all()
    assert [(row.worker, row.seconds, row.downsample) for row in results] == [
        (worker, 0.5 * len(blocks), 2.0 / 0.5) for worker in ("w1", "w2")
    ]
    rows = session.scalars(select(GlomerulusFinding).where(GlomerulusFinding.slide_id == first.id)).all()
    assert [row.area_px for row in rows] == found.areas_px.tolist()
    assert rows[0].outline[:2] == pytest.approx(found.outlines_px[0][0].tolist(), abs=0.01)
    assert session.scalar(select(func.count()).where(SlideBlock.content.is_not(None))) == 0, "dropped"


def test_the_blocks_of_a_search_that_is_given_up_go_and_those_of_one_that_failed_stay(
    session: Session, technologist: User
) -> None:
    specimen = specimen_of(session, technologist, "A1")
    (only,) = specimen.slides
    analysis = asked(session, specimen, technologist)
    slide_searches.plan(session, analysis.id, only.id, blocks_at(0.5))
    search(session, analysis, only, most=1)
    analyses.fail(session, analysis.id, "The power went.")
    assert analyses.sweep(session, older_than=timedelta(seconds=-1)) == 0
    analyses.cancel(session, analysis.id, technologist)
    assert analyses.sweep(session, older_than=timedelta(seconds=-1)) == len(blocks_at(0.5))
    assert session.scalar(select(func.count()).select_from(SlideBlock)) == 0


def test_of_two_workers_at_one_slide_the_first_counts_at_every_step(engine: Engine, technologist: User) -> None:
    with session_scope(engine) as session:
        specimen = specimen_of(session, technologist, "A1")
        analysis, only = asked(session, specimen, technologist), specimen.slides[0]
    of, blocks = (analysis.id, only.id), blocks_at(0.5)
    results = [model().search(slide(WIDTH_PX, HEIGHT_PX, DISCS), block) for block in blocks]
    found = join(results)

    def at_once(step: Callable[[Session], bool]) -> tuple[int, int]:
        """How many of two workers that take a step at once are told that it counts, and by how much it moves on."""

        def worker(_number: int) -> tuple[bool, int]:
            with session_scope(engine) as own:
                counted = step(own)
                return counted, queue.ANALYSIS.progress(own, analysis.id)

        with session_scope(engine, read_only=True) as own:
            before = queue.ANALYSIS.progress(own, analysis.id)
        with ThreadPoolExecutor(2) as both:
            told = list(both.map(worker, range(2)))
        return sum(counted for counted, _ in told), max(after for _, after in told) - before

    assert at_once(lambda own: slide_searches.plan(own, *of, blocks)) == (1, len(blocks))
    for position, result in enumerate(results):
        store = partial(slide_searches.store_block, position=position, result=result, seconds=1)
        assert at_once(lambda own, store=store: store(own, *of)) == (1, 1)  # type: ignore[misc]
    assert at_once(lambda own: slide_searches.finish_slide(own, *of, found, worker="w")) == (1, 1)
    with session_scope(engine) as session:
        assert not slide_searches.plan(session, *of, blocks), "what has a result is not searched again"
        assert session.scalar(select(func.count()).select_from(GlomerulusFinding)) == 3


def test_a_scale_given_before_the_slide_has_its_result_begins_its_search_anew(
    session: Session, technologist: User
) -> None:
    specimen = specimen_of(session, technologist, "A1", um_per_px=None)
    (only,) = specimen.slides
    analysis = asked(session, specimen, technologist)
    of = (session, analysis.id, only.id)
    old = blocks_at(None)
    assert slide_searches.plan(*of, old)
    late = model().search(slide(WIDTH_PX, HEIGHT_PX, DISCS, um_per_px=None), old[0])
    search(session, analysis, only)
    found = joined(session, analysis, only)

    slides.set_scale(session, only.id, 0.25, by=technologist)
    assert not slide_searches.is_planned(*of)
    assert not slide_searches.plan(*of, old), "made before the scale was known"
    assert not slide_searches.finish_slide(*of, found, worker="w1")
    assert slide_searches.plan(*of, blocks_at(0.25))
    assert not slide_searches.store_block(*of, 0, late, seconds=1), "a block of the plan that was replaced"
    search(session, analysis, only)
    slide_searches.finish_slide(*of, joined(session, analysis, only), worker="w1")
    assert session.scalars(select(SlideResult)).one().downsample == 2.0 / 0.25

    slides.set_scale(session, only.id, 0.5, by=technologist)
    assert slide_searches.pending_slides(session, analysis.id) == [], "a result stands, whatever scale comes later"


def test_a_slide_without_tissue_has_no_tiles_and_no_glomeruli_and_that_is_a_result(
    session: Session, technologist: User
) -> None:
    specimen = specimen_of(session, technologist, "A1")
    (only,) = specimen.slides
    analysis = asked(session, specimen, technologist)
    glass = slide(WIDTH_PX, HEIGHT_PX, (), glass_px=WIDTH_PX)
    of = (session, analysis.id, only.id)
    (block,) = model().blocks(glass)
    slide_searches.plan(*of, [block])
    assert slide_searches.store_block(*of, 0, model().search(glass, block), seconds=0.1)
    assert slide_searches.finish_slide(*of, joined(session, analysis, only), worker="w1")
    assert analyses.finish(session, analysis.id)
    assert analyses.progress(session, analysis.id) == (0, 0)
    assert session.scalars(select(SlideResult)).one().tissue_px == 0


def test_a_withdrawn_slide_is_not_searched_and_one_that_is_cancelled_takes_nothing_more(
    session: Session, technologist: User
) -> None:
    specimen = specimen_of(session, technologist, "A1", "A2")
    first, second = specimen.slides
    analysis = asked(session, specimen, technologist)
    blocks = blocks_at(0.5)
    slide_searches.plan(session, analysis.id, first.id, blocks)
    first.withdrawn_at = specimen.created_at
    session.flush()
    assert slide_searches.pending_slides(session, analysis.id) == [second]
    assert not slide_searches.plan(session, analysis.id, first.id, blocks)
    assert analyses.progress(session, analysis.id) == (0, 0)

    slide_searches.plan(session, analysis.id, second.id, blocks)
    search(session, analysis, second, most=1)
    analyses.cancel(session, analysis.id, technologist)
    assert search(session, analysis, second) == 0
    analyses.retry(session, analysis.id, technologist)
    assert len(slide_searches.pending_blocks(session, analysis.id, second.id)) == len(blocks) - 1, "it goes on"


def test_slides_are_asked_for_as_fields_are(session: Session, technologist: User, register: Register) -> None:
    specimen = specimen_of(session, technologist, "A1")
    analysis = asked(session, specimen, technologist)
    with pytest.raises(Conflict, match="already being analysed"):
        asked(session, specimen, technologist)
    with pytest.raises(NotFound, match="does not belong to the specimen"):
        slide_searches.plan(session, analysis.id, 99, blocks_at(0.5))
    assert (analyses.units("histology"), analyses.units("sediment")) == ("tiles", "fields")
    specimen.slides[0].withdrawn_at = specimen.created_at
    analyses.cancel(session, analysis.id, technologist)
    with pytest.raises(Conflict, match=r"K-A1 has no slide\. Upload one, or bring one back"):
        asked(session, specimen, technologist)
