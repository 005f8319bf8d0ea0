"""Phase retrieval on crystals whose truth is known."""
