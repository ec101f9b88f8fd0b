"""Measurements of cyoloctl beside etcd on the same machine in the same run: ``make bench``."""
