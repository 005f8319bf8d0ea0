"""From frames to one masked, cropped rocking scan."""
