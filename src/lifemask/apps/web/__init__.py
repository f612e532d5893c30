"""The web demo: a page on this computer that makes heads of photos, and a viewer for them."""
