"""The commands of `penstock bench`: from what is typed to a report."""
