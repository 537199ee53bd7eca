"""Noise and adversaries as tools."""
