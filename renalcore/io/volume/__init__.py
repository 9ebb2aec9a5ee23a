"""CT volumes in Hounsfield units with their place in the patient: `read_volume` gives a `Volume`, whatever the files.

What a file is, its content says, never its name. DICOM is read from a folder, a zip or tar archive, a DICOMDIR or loose
files, in any order, with or without extension and meta header, compressed or not, one slice a file or enhanced
multi-frame; NIfTI from `.nii` and `.nii.gz`. `find_series` tells which series an upload holds and why one cannot be
read.

Nothing here gives out a patient's name, number, institution or date, nor any free text that a scanner wrote.
"""

from renalcore.io.volume.nifti import write_image, write_labels
from renalcore.io.volume.opening import SeriesFound, find_series, read_volume, slice_headers
from renalcore.io.volume.packing import pack_series
from renalcore.io.volume.volume import Volume

__all__ = [
    "SeriesFound",
    "Volume",
    "find_series",
    "pack_series",
    "read_volume",
    "slice_headers",
    "write_image",
    "write_labels",
]
