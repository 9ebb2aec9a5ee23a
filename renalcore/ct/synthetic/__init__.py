"""Abdomens drawn around real kidneys: the outlines are those of KiTS23 patients, everything else is invented."""

from renalcore.ct.synthetic.kidneys import KidneyShape, read_shape
from renalcore.ct.synthetic.scene import Scene, draw_scene

__all__ = ["KidneyShape", "Scene", "draw_scene", "read_shape"]
