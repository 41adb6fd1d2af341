"""Measurements that guard the speed; each file says how it is run."""
