"""Classify bone-density images into Normal, Osteopenia and Osteoporosis.

For research and teaching, not for diagnosis.
"""

__version__ = "2.0.0"
