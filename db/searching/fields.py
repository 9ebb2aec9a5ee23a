"""The sediment's wing of a worker."""

from __future__ import annotations

import time

from db import analyses, files
from db.engine import session_scope
from db.models import SpecimenField
from db.searching.wing import Asked, Outcome, Run, Wing
from db.searching.words import Picture, event
from renalcore.errors import ModelError
from renalcore.io.image import read_field
from renalcore.serving import Detector


class Fields(Wing[Detector]):
    """Sediment: one step a field."""

    kind = "field"
    table = SpecimenField

    def model(self, asked: Asked) -> Detector:
        """See `Wing.model`."""
        detector = super().model(asked)
        if detector.calibration_sha256 != asked.calibration_sha256:
            raise ModelError(
                f"The scores of {asked.model_key} have been calibrated anew since the analysis was asked for, so they "
                "cannot be compared with its thresholds. Cancel it and ask for a new analysis."
            )
        return detector

    def search(self, run: Run, field_id: int) -> Outcome:
        """See `Wing.search`."""

        def once(asked: Asked, picture: Picture) -> Outcome:
            with session_scope(read_only=True) as session:
                row = session.get_one(SpecimenField, field_id)
                sha256, um_per_px = row.file.sha256, row.specimen.um_per_px
            detector = self.model(asked)
            field = read_field(files.store().read(sha256), name=picture.name, um_per_px=um_per_px)
            started = time.monotonic()
            detections = detector.predict(field)
            seconds = time.monotonic() - started
            with session_scope() as session:
                stored = analyses.store_field(
                    session, run.analysis_id, field_id, detections=detections, seconds=seconds, worker=self.worker.name
                )
            event("field done" if stored else "field known", analysis=run.analysis_id, field=field_id,
                   objects=len(detections), seconds=round(seconds, 3))  # fmt: skip
            return "done", ""

        return self.step(f"field {field_id}", run, field_id, once)
