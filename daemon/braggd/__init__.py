"""Live Bragg coherent diffraction imaging, from the detector's frame stream to the crystal."""

__version__ = "0.1.0"
