"""Data sets and the user's own files, one file per task or source."""
