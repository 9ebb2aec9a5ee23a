"""Heat maps of fields, drawn by a worker; what is asked for and kept of them is told in `db.heat_maps`."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable

import numpy as np

from db import files, heat_maps
from db.engine import session_scope
from db.models import HeatMap
from db.searching.words import Picture, event, fault, unreadable
from renalcore.errors import DamagedFile, InputError, ModelError, NotFound, RenalError
from renalcore.io.image import read_field
from renalcore.serving import Explainer
from renalcore.types import Detections


class HeatMaps:
    """What draws the heat maps of a worker."""

    def __init__(self, load: Callable[[str], Explainer]) -> None:
        self._load = load
        self._explainers: dict[str, Explainer] = {}
        self._loading = threading.Lock()  # of its own: torch takes seconds, and fields go on meanwhile

    def draw(self, heat_map_id: int, attempt: str) -> None:
        """The one step of a heat map. It is not tried again: whoever waits for it reads why it failed, and can."""
        picture, started = Picture("field", 0), time.monotonic()
        try:
            with session_scope(read_only=True) as session:
                asked = session.get_one(HeatMap, heat_map_id)
                if asked.state != "waiting" or asked.workflow_id != attempt:
                    return
                picture = Picture("field", asked.field_id, asked.field.name)
                analysis, sha256 = asked.analysis, asked.field.file.sha256
                found, one_box = heat_maps.findings(session, asked), asked.finding_id is not None
            explainer = self._explainer(analysis.model_key, analysis.weights_sha256)
            if not one_box:
                class_name = found[0].class_name
                least = explainer.min_score_of(class_name)
                found = [finding for finding in found if finding.score >= least]
                if not found:
                    raise InputError(
                        f"No {class_name} of this field scores {least:.2f}, from which the model reports it."
                    )
            field = read_field(files.store().read(sha256), name=picture.name)
            boxes = np.array([(box.x1, box.y1, box.x2, box.y2) for box in found], np.float32)
            scores = np.array([box.score for box in found], np.float32)
            ids = np.array([explainer.classes.index(box.class_name) for box in found], np.int64)
            png = explainer.draw(field, Detections(boxes, scores, ids, explainer.classes))
            with session_scope() as session:
                if png is None:
                    heat_maps.store_empty(session, heat_map_id)
                else:
                    digest, size = files.store().put(io.BytesIO(png))
                    heat_maps.store(session, heat_map_id, sha256=digest, size=size)
        except Exception as error:  # noqa: BLE001  # whatever a model or a driver raises must end in words
            event("heat map failed", heat_map=heat_map_id, error=fault(error, hide=picture))
            if isinstance(error, InputError | NotFound | DamagedFile):
                words = unreadable(error, picture)
            elif isinstance(error, RenalError):
                words = str(error)
            else:
                words = (
                    f"The map cannot be drawn ({type(error).__name__}). Tell your administrator, who finds the reason "
                    "in the worker's log."
                )
            with session_scope() as session:
                heat_maps.fail(session, heat_map_id, words)
        else:
            event("heat map done", heat_map=heat_map_id, boxes=len(found), empty=png is None,
                   seconds=round(time.monotonic() - started, 3))  # fmt: skip

    def _explainer(self, model_key: str, weights_sha256: str) -> Explainer:
        with self._loading:
            if model_key not in self._explainers:
                self._explainers[model_key] = self._load(model_key)
            explainer = self._explainers[model_key]
        if explainer.weights_sha256 != weights_sha256:
            raise ModelError(
                f"This was found with other weights of {model_key} ({weights_sha256[:12]}) than are installed now "
                f"({explainer.weights_sha256[:12]}), so it cannot be explained."
            )
        return explainer
