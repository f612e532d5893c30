"""lifemask: a cast of a living face from one photograph."""
