"""Abdomens drawn around real kidneys, and real lesions in real abdomens: outlines are those of KiTS23 patients."""

from renalcore.ct.synthetic.implants import implant
from renalcore.ct.synthetic.kidneys import KidneyShape, read_shape
from renalcore.ct.synthetic.scene import Scene, draw_scene

__all__ = ["KidneyShape", "Scene", "draw_scene", "implant", "read_shape"]
