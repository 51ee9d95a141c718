"""Images, holes, splits and edge maps on disk."""
