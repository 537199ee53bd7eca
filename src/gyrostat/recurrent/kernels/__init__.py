"""Fused paths of the recurrent cells; the slow, obvious twin of each is the cell itself."""
