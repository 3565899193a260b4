"""The tasks, one file each: what an encoder is asked, its protocol as settings, and what comes out."""
