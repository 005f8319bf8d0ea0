"""Phase retrieval: projections, support, recipes, ranking."""
