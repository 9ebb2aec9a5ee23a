"""Synthetic bright-field urine-sediment fields with exact boxes for all 39 classes.

The renderer works in micrometres: it draws what a particle does to light, focuses it, and photographs the field.
It makes the demo, the tests, and the only training pictures of the classes without real ones.
"""

from renalcore.sediment.synthetic.dataset import write_dataset
from renalcore.sediment.synthetic.field import Placed, Plan, RenderedField, paint, plan, render
from renalcore.sediment.synthetic.optics import Light
from renalcore.sediment.synthetic.recipe import DEMO_RECIPES, Recipe

__all__ = [
    "DEMO_RECIPES",
    "Light",
    "Placed",
    "Plan",
    "Recipe",
    "RenderedField",
    "paint",
    "plan",
    "render",
    "write_dataset",
]
