"""Glomeruli outlined by people, in any of the forms that this field writes, as `LabelledSlide`s.

`survey` reads a folder, whatever its form, and lists what is wrong with it; `read_slides` refuses what cannot be
trained on. What a file is, its content says. **Forms:** masks beside pictures (`masks`), Orbit's SQLite database
(`orbit`), HuBMAP's `train.csv` and polygon files (`hubmap`), QuPath's GeoJSON (`geojson`).

**Tables beside them.** `groups.csv` (`image`, `group`) names the patient or animal of a slide. Without it a group is
what a pattern finds in the name, or else the slide itself.
"""

from renalcore.histology.annotations.reading import ReadOptions, Slides, read_slides, survey
from renalcore.histology.annotations.record import Known, LabelledSlide, Outline

__all__ = ["Known", "LabelledSlide", "Outline", "ReadOptions", "Slides", "read_slides", "survey"]
