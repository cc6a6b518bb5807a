"""What Sphinx needs besides its own extensions to build the site."""
