"""Measurements that ship: paired, interleaved, as ratios within one run."""
