"""Smaller before it is exported: trim, prune, distil."""
