"""How frames arrive: streams, files, the replaying sender, the spool."""
