"""The commands of `lifemask`, one file each."""
