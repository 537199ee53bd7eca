"""Read a model's response to noise: titration curves, references, verdicts, safe loading."""
