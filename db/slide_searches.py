"""Slides searched: planned as blocks of tiles, stored block by block, and joined to the glomeruli of each slide.

A worker that was killed, or lost its work to another one, finds here what is left to do. Everything can be stored by
several workers at once: the first one counts, and what belongs to a plan that was replaced meanwhile is refused.

The zoom of a search follows from the slide's scale. Where a person gives or corrects the scale before the slide has
its result, its plan no longer holds and the search of that slide begins anew. A result is never taken back: its
outlines are pixels of the slide, so sizes follow a scale that is corrected later, and whoever wants the slide searched
at the zoom of the new scale asks for another analysis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.orm import Session, defer

from db import analyses
from db.engine import now
from db.models import GlomerulusFinding, Slide, SlideBlock, SlideResult
from renalcore.errors import Conflict, NotFound
from renalcore.histology.glomeruli import Glomeruli
from renalcore.histology.tiles import Block, BlockResult


def pending_slides(session: Session, analysis_id: int) -> list[Slide]:
    """The slides of an analysis that have no result yet and are not withdrawn, in their order."""
    return analyses.pending(session, analysis_id, Slide)


def is_planned(session: Session, analysis_id: int, slide_id: int) -> bool:
    """Whether there is a plan for a slide that fits the scale it has now."""
    first = session.scalar(
        select(SlideBlock.plan).where(*_of(analysis_id, slide_id)).order_by(SlideBlock.position).limit(1)
    )
    return first is not None and Block.from_json(first).layout.um_per_px == session.get_one(Slide, slide_id).um_per_px


def plan(session: Session, analysis_id: int, slide_id: int, blocks: Sequence[Block]) -> bool:
    """Keep how a slide is to be searched: once, whoever else plans it at the same moment.

    A plan made for another scale is replaced, with what was stored of it.

    Args:
        session: An open session.
        analysis_id: The analysis.
        slide_id: A slide of its specimen.
        blocks: All blocks of the slide, in their order.

    Returns:
        False where it has a plan or a result, is withdrawn, got another scale since, or the analysis was cancelled:
        nothing was kept.

    Raises:
        NotFound: The slide is none of this analysis.
    """
    slide = _held(session, analysis_id, slide_id)
    if slide is None or blocks[0].layout.um_per_px != slide.um_per_px or is_planned(session, analysis_id, slide_id):
        return False
    session.execute(delete(SlideBlock).where(*_of(analysis_id, slide_id)))
    session.execute(
        insert(SlideBlock),
        [
            {
                "analysis_id": analysis_id,
                "slide_id": slide_id,
                "position": position,
                "tiles": len(block.tiles),
                "plan": block.to_json(),
            }
            for position, block in enumerate(blocks)
        ],
    )
    return True


def pending_blocks(session: Session, analysis_id: int, slide_id: int) -> list[SlideBlock]:
    """The blocks of a slide that are planned and not searched, from its top."""
    return list(
        session.scalars(
            select(SlideBlock)
            .where(*_of(analysis_id, slide_id), SlideBlock.finished_at.is_(None))
            .options(defer(SlideBlock.content))
            .order_by(SlideBlock.position)
        )
    )


def is_pending(session: Session, analysis_id: int, slide_id: int, position: int | None = None) -> bool:
    """Whether a slide has no result yet and is not withdrawn; with `position`, whether that block is to be searched."""
    if slide_id not in {slide.id for slide in pending_slides(session, analysis_id)}:
        return False
    block = select(SlideBlock.id).where(
        *_of(analysis_id, slide_id), SlideBlock.position == position, SlideBlock.finished_at.is_(None)
    )
    return position is None or session.scalar(block) is not None


def store_block(
    session: Session, analysis_id: int, slide_id: int, position: int, result: BlockResult, *, seconds: float
) -> bool:
    """Store what the network said of one block: once, whoever else is storing it at the same moment.

    Args:
        session: An open session.
        analysis_id: The analysis.
        slide_id: The slide.
        position: Which of its blocks.
        result: What the network said.
        seconds: Time that reading and the network took.

    Returns:
        False where the block has a result already, is planned otherwise by now, or the analysis was cancelled:
        nothing was stored.
    """
    if analyses.is_cancelled(session, analysis_id):
        return False
    stored = session.scalar(
        update(SlideBlock)
        .where(
            *_of(analysis_id, slide_id),
            SlideBlock.position == position,
            SlideBlock.finished_at.is_(None),
            SlideBlock.plan == result.block.to_json(),
        )
        .values(content=result.to_bytes(), seconds=seconds, finished_at=now())
        .returning(SlideBlock.id)
    )
    return stored is not None


def results(session: Session, analysis_id: int, slide_id: int) -> Iterator[BlockResult]:
    """What the network said of each block of a slide, from its top; read one by one, so that memory stays small.

    Raises:
        Conflict: A block is not searched yet, or the slide has its result.
    """
    ids = session.scalars(select(SlideBlock.id).where(*_of(analysis_id, slide_id)).order_by(SlideBlock.position)).all()
    for block_id in ids:
        content = session.scalar(select(SlideBlock.content).where(SlideBlock.id == block_id))
        if content is None:
            raise Conflict(f"Slide {slide_id} cannot be completed in analysis {analysis_id}: a block lacks its result.")
        yield BlockResult.from_bytes(content)


def finish_slide(session: Session, analysis_id: int, slide_id: int, found: Glomeruli, *, worker: str) -> bool:
    """Store the glomeruli of a slide and drop what its blocks hold: once, whoever else does so at the same moment.

    Args:
        session: An open session.
        analysis_id: The analysis.
        slide_id: A slide of its specimen, all its blocks searched.
        found: Its glomeruli, joined from them.
        worker: Name of the worker that joined them.

    Returns:
        False where it has a result, is withdrawn, got another scale since, or the analysis was cancelled: nothing
        was stored.

    Raises:
        Conflict: A block has no result, or nothing is planned.
        NotFound: The slide is none of this analysis.
    """
    slide = _held(session, analysis_id, slide_id)
    if slide is None or found.um_per_px != slide.um_per_px:
        return False
    of_slide = _of(analysis_id, slide_id)
    first = session.scalar(select(SlideBlock.plan).where(*of_slide, SlideBlock.position == 0))
    if first is None or pending_blocks(session, analysis_id, slide_id):
        raise Conflict(f"Slide {slide.name} cannot be completed: a block lacks its result.")
    result = SlideResult(
        analysis_id=analysis_id,
        slide_id=slide_id,
        seconds=session.scalar(select(func.sum(SlideBlock.seconds)).where(*of_slide)) or 0.0,
        finished_at=now(),
        worker=worker,
        tissue_px=found.tissue_px,
        downsample=Block.from_json(first).layout.downsample,
    )
    session.add(result)
    session.flush()
    if len(found):
        session.execute(
            insert(GlomerulusFinding),
            [
                {
                    "slide_result_id": result.id,
                    "analysis_id": analysis_id,
                    "slide_id": slide_id,
                    "score": round(float(score), 6),  # all that float32 holds
                    "outline": [round(float(value), 2) for value in outline.ravel()],
                    "area_px": float(area),
                    "touches_edge": bool(touches),
                }
                for outline, score, area, touches in zip(
                    found.outlines_px, found.scores, found.areas_px, found.touches_edge, strict=True
                )
            ],
        )
    session.execute(update(SlideBlock).where(*of_slide).values(content=None))
    return True


def _of(analysis_id: int, slide_id: int) -> tuple[ColumnElement[bool], ...]:
    return SlideBlock.analysis_id == analysis_id, SlideBlock.slide_id == slide_id


def _held(session: Session, analysis_id: int, slide_id: int) -> Slide | None:
    """A slide that is to be searched, its specimen locked; None where it has a result, or is not wanted any more."""
    analysis, specimen = analyses.hold(session, analysis_id)
    slide = session.get(Slide, slide_id, populate_existing=True)
    if slide is None or slide.specimen_id != specimen.id:
        raise NotFound(f"Slide {slide_id} does not belong to the specimen of analysis {analysis_id}.")
    has_result = session.scalar(analyses.searched(analysis_id, Slide).where(SlideResult.slide_id == slide_id))
    if analysis.state == "cancelled" or slide.withdrawn_at is not None or has_result is not None:
        return None
    return slide
