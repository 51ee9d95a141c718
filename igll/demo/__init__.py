"""A page to try the library in a browser."""
