"""Photo to faces to crops to landmarks."""
