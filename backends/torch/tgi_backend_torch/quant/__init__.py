"""Weights in fewer bits than are computed with.

One file a format (how a checkpoint holds a layer), one a kind of weight (how it is kept in memory
and multiplied); `formats.py` finds the format, `swap.py` puts the layers into a model.
"""
