"""Conformance suites that ship with the package, so that third parties can hold themselves to them."""
