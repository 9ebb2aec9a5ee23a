"""The wing of histology: slides are searched block by block."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from sqlalchemy.orm import Session

from db import slide_files, slide_searches, slides
from db.engine import session_scope
from db.models import Slide as SlideRow
from db.searching.wing import Asked, Outcome, Run, Wing
from db.searching.words import Picture, event, since
from renalcore.histology.instances import join
from renalcore.histology.tiles import Block, BlockResult
from renalcore.io.slide import Slide
from renalcore.serving import Searcher


@dataclass(frozen=True, slots=True)
class _SlideFile:
    """The file of a slide, and what the record says of it."""

    name: str
    sha256: str
    um_per_px: float | None
    species: str

    @classmethod
    def of(cls, session: Session, slide_id: int) -> _SlideFile:
        row = slides.get(session, slide_id)
        return cls(row.name, row.file.sha256, row.um_per_px, row.species)

    def open(self, *, verify: bool = False) -> Slide:
        """The slide, open for reading; `verify` reads its file through to check that it is what was uploaded."""
        slide = slide_files.opened(self.sha256, name=self.name, verify=verify)
        slide.um_per_px = self.um_per_px  # as people were shown it and may have given it
        return slide


class _SlideAtHand:
    """A slide open from its first block to its last: the tiles of one are read while another is stored."""

    def __init__(self) -> None:
        self._slide: Slide | None = None
        self._coming: Generator[BlockResult, None, None] | None = None
        self._order: list[int] = []

    def result(
        self, searcher: Searcher, position: int, planned: Callable[[], tuple[_SlideFile, dict[int, Block]]]
    ) -> BlockResult:
        """What the network says of the block at `position`.

        Args:
            searcher: The network.
            position: The block.
            planned: Reads from the record which file it is and the blocks still to be searched, by position.
        """
        if self._coming is None or self._order[:1] != [position]:
            self.close()
            file, blocks = planned()
            left = {place: block for place, block in blocks.items() if place >= position}
            self._slide = file.open()
            self._coming, self._order = searcher.results(self._slide, list(left.values())), list(left)
        try:
            result = next(self._coming)
        except BaseException:
            self.close()  # a generator that failed gives nothing more
            raise
        self._order.pop(0)
        return result

    def close(self) -> None:
        """Let go of it; the next result opens it again."""
        if self._coming is not None:
            self._coming.close()
        if self._slide is not None:
            self._slide.close()
        self._coming = self._slide = None


class Slides(Wing[Searcher]):
    """Histology: one step to plan a slide, one a block of its tiles, one to join what they say."""

    kind = "slide"
    table = SlideRow

    def passes(self) -> tuple[Callable[[Run, int], Outcome], ...]:
        """See `Wing.passes`."""
        return self.plan, self.search  # all slides are planned first, so that progress knows its whole

    def plan(self, run: Run, slide_id: int) -> Outcome:
        """As `search`, up to the plan."""
        return self._planned(run, slide_id)[:2]

    def search(self, run: Run, slide_id: int) -> Outcome:
        """The blocks of a slide, and what follows from them; once more where its plan was replaced meanwhile."""
        with closing(_SlideAtHand()) as at_hand:
            while True:
                outcome, message, positions = self._planned(run, slide_id)
                for position in positions:
                    once = partial(self._search_block, run, slide_id, position, at_hand)
                    outcome, message = self.step(f"slide {slide_id} block {position}", run, slide_id, once)
                    if outcome != "done":
                        break
                if outcome == "done":
                    once = partial(self._join, run, slide_id)
                    outcome, message = self.step(f"join slide {slide_id}", run, slide_id, once)
                if outcome != "plan again":
                    return outcome, message
                at_hand.close()

    def _planned(self, run: Run, slide_id: int) -> tuple[str, str, list[int]]:
        """The step that finds the tissue of a slide and cuts it into blocks, unless that is done.

        Returns:
            Its outcome, and the positions of the blocks still to be searched.
        """

        def planned() -> tuple[str, str, list[int]]:
            positions: list[int] = []
            outcome, message = self.tried(run, slide_id, partial(self._find_tissue, run, slide_id, positions))
            return outcome, message, positions

        return self.worker.step(f"plan slide {slide_id}", planned)

    def _find_tissue(self, run: Run, slide_id: int, positions: list[int], asked: Asked, _picture: Picture) -> Outcome:
        while True:
            with session_scope(read_only=True) as session:
                if not slide_searches.is_pending(session, run.analysis_id, slide_id):
                    return "left", ""
                file = _SlideFile.of(session, slide_id)
                if slide_searches.is_planned(session, run.analysis_id, slide_id):
                    pending = slide_searches.pending_blocks(session, run.analysis_id, slide_id)
                    positions[:] = [row.position for row in pending]
                    return "done", ""
            searcher = self.model(asked)
            started = time.monotonic()
            with file.open(verify=True) as slide:
                blocks = searcher.blocks(slide, file.species)
            with session_scope() as session:
                stored = slide_searches.plan(session, run.analysis_id, slide_id, blocks)
            event("slide planned" if stored else "slide known", analysis=run.analysis_id, slide=slide_id,
                   blocks=len(blocks), tiles=sum(len(block.tiles) for block in blocks),
                   seconds=since(started))  # fmt: skip

    def _search_block(
        self, run: Run, slide_id: int, position: int, at_hand: _SlideAtHand, asked: Asked, _picture: Picture
    ) -> Outcome:
        def planned() -> tuple[_SlideFile, dict[int, Block]]:
            with session_scope(read_only=True) as session:
                rows = slide_searches.pending_blocks(session, run.analysis_id, slide_id)
                return _SlideFile.of(session, slide_id), {row.position: Block.from_json(row.plan) for row in rows}

        with session_scope(read_only=True) as session:
            if not slide_searches.is_planned(session, run.analysis_id, slide_id):
                return "plan again", ""
            if not slide_searches.is_pending(session, run.analysis_id, slide_id, position):
                return "done", ""  # stored by the worker that was killed before it could say so
        searcher = self.model(asked)
        started = time.monotonic()
        result = at_hand.result(searcher, position, planned)
        seconds = time.monotonic() - started
        with session_scope() as session:
            stored = slide_searches.store_block(session, run.analysis_id, slide_id, position, result, seconds=seconds)
        event("block done" if stored else "block known", analysis=run.analysis_id, slide=slide_id, block=position,
               tiles=len(result.block.tiles), seconds=round(seconds, 3))  # fmt: skip
        return "done", ""

    def _join(self, run: Run, slide_id: int, _asked: Asked, _picture: Picture) -> Outcome:
        """The glomeruli of a slide."""
        with session_scope(read_only=True) as session:
            if slide_searches.pending_blocks(session, run.analysis_id, slide_id):
                return "plan again", ""
            started = time.monotonic()
            found = join(slide_searches.results(session, run.analysis_id, slide_id))
        with session_scope() as session:
            if not slide_searches.finish_slide(session, run.analysis_id, slide_id, found, worker=self.worker.name):
                return "plan again", ""
        event("slide done", analysis=run.analysis_id, slide=slide_id, glomeruli=len(found), seconds=since(started))
        return "done", ""
