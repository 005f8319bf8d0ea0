"""Crystals whose truth is known, and the patterns that a detector would count of them.

Volumes are (z, y, x) = (rocking step, detector row, detector column); vectors and axes are in that order too. The wave
is numpy's FFT of the object with both middles at n // 2, as everywhere in braggd. A length unit of the object is a
voxel of the pattern's inverse FFT unless said otherwise.
"""
