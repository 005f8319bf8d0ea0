"""Networks that fill detector gaps: the slab network that braggd ships, and those of the thesis beside it."""
