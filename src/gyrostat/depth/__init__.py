"""Models of depth: any unit, its weights and statistics as functions of depth."""
