"""Adversarially trained sources, fine-tuning, and the influence of training points."""
