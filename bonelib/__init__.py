"""Classify bone-density images into Normal, Osteopenia and Osteoporosis, with figures one can believe.

For research and teaching, not for diagnosis. Import the room you need: `from bonelib import catalog, split, train`.
"""

__version__ = "0.1.0"
