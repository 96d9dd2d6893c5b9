"""The programs at both ends: plain TCP programs that know nothing of what stands between."""
