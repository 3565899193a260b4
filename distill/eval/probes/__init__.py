"""What is trained on frozen features to read something out of them: linear layers and heads, and how."""
