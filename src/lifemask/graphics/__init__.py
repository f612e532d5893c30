"""Geometry, cameras, light and images; knows no faces and does not learn."""
