"""What a run watches of itself."""
