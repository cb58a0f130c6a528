"""The chart rendered without a release, and what a cluster lacks for it."""
