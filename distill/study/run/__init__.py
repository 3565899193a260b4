"""Carrying a study out: one worker per job, a schedule that keeps workers busy, and a table to watch."""
