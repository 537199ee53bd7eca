"""Sketched singular value decompositions that know their own error."""
