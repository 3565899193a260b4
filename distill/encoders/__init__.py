"""Image and text towers, projection heads, and where their weights start."""
