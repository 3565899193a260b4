"""Where the pictures of the tasks come from: folders, and the procedural world."""
