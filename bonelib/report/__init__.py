"""report.html and MODEL_CARD.md from the artifacts of a run folder."""
