"""Recognition: what a norm is, in algebra, and which sums feed one."""
