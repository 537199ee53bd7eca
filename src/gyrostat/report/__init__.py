"""The furniture of the self-contained HTML page that every command writes; knows no method."""
