"""Corpora become rows here; `worlds` renders pictures, clips and texts whose truth is known exactly."""
