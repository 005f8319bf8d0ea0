"""From the object in the detector frame to shape, displacement and strain in the laboratory frame."""
