"""Whole slides and pictures of sections, read region by region: `open_slide` gives a `Slide`, whatever the format.

What a file is, its content says, never its name. OpenSlide reads Aperio SVS, Hamamatsu NDPI and VMS, 3DHISTECH MRXS,
Leica SCN, Ventana BIF, Philips and Trestle TIFF, Sakura SVSLIDE and DICOM slides; tifffile reads OME-TIFF and plain
TIFF, pyramid or not; `renalcore.io.image` reads PNG, JPEG, WebP, BMP and rarer kinds of small TIFF.

A scanner's pictures of the label and of the whole glass often show the patient's name: nothing here gives them out,
nor any text that the scanner wrote into the file. A slide in many files travels as one (`renalcore.io.slide.packed`),
without the patient (`renalcore.io.slide.dicom`, `renalcore.io.slide.mirax`).
"""

from renalcore.io.slide.opening import open_slide
from renalcore.io.slide.slide import Level, Slide

__all__ = ["Level", "Slide", "open_slide"]
