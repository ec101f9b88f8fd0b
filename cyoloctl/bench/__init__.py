"""Load against a running cluster, and what it measures: `cyoloctl bench`."""
