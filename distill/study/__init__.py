"""Studies: several runs that differ in a few switches, measured the same way and laid side by side."""
